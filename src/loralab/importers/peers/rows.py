"""The rows of a trainer's keys, and how the keys of a file find theirs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from loralab.importers.foreign import Foreign, Left
from loralab.schema.catalogue import Option

Rows = Mapping[str, Option]


def row(name: str, key: str, **more: Any) -> Option:
    """The row of a supported key: its dotted name in the file, and our key."""
    return Option(name, key, "", **more)


def without(reasons: Mapping[str, str], neutral: bool = False) -> Iterable[Option]:
    """Rows of keys without a counterpart, by the reason. A name may contain *."""
    return (Option(name, "", why, neutral=neutral) for why, names in reasons.items() for name in names.split())


def table(*options: Option) -> Rows:
    """Rows by name."""
    return {option.name: option for option in options}


def of(rows: Rows, name: str) -> Option | None:
    """The row of a key: its own, or the first with a * that matches it."""
    if name in rows:
        return rows[name]
    return next((option for known, option in rows.items() if "*" in known and fnmatchcase(name, known)), None)


def take(
    found: Foreign,
    given: Mapping[str, Any],
    aliases: Mapping[str, str] | None = None,
    off: Mapping[str, Any] | None = None,
    at: str = "",
) -> None:
    """Adds each key of nested tables to a file's options.

    aliases: other names of keys → their names in the rows; off: values of unsupported keys that say nothing.
    """
    for key, value in given.items():
        place = f"{at}{key}"
        name = (aliases or {}).get(place, place)
        option = of(found.rows, name)
        is_off = off is not None and name in off and off[name] == value
        if option is not None and (is_off or "*" in option.name):
            why = "is off" if is_off else option.what
            found.left.append(Left(place, value, why, is_setting=not (is_off or option.neutral)))
        elif option is not None:
            found.add(place, name, value, empty=value in (None, ""))
        elif isinstance(value, dict) and value:
            take(found, value, aliases, off, f"{place}.")
        else:
            found.add(place, name, value)


def tables(value: Any) -> list[dict[str, Any]]:
    """A list of tables."""
    if not isinstance(value, list) or not all(isinstance(part, dict) for part in value):
        raise ValueError("a list of tables")
    return value
