"""The entries of data.folders, each from a table of a trainer's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loralab.importers.foreign import SPECIAL, Foreign, Left
from loralab.importers.peers.rows import Rows, of
from loralab.schema import coerce
from loralab.schema.tree import leaves

KINDS = {
    "path": coerce.path,
    "repeats": coerce.whole,
    "weight": coerce.number,
    "class_tokens": coerce.text,
    "mask_folder": coerce.path,
    "metadata": coerce.path,
    "is_reg": coerce.flag,
}
"""Kinds of values of an entry that are not those of data.captions and data.augment."""


def entry(
    foreign: Foreign,
    where: str,
    given: Mapping[str, Any],
    rows: Rows,
    off: Mapping[str, Any],
    absent: Mapping[str, Any],
) -> dict[str, Any]:
    """One entry. The rows' keys are relative to it; what it does not become is reported below `where`.

    off: values of unsupported keys that say nothing; absent: the trainer's defaults.
    """
    found: dict[str, Any] = {}
    values = dict(leaves(given))
    for key, value in {**absent, **values}.items():
        place, option = f"{where}.{key}", of(rows, key)
        if key in values and option is not None:
            foreign.datasets_taken.add(place)
        if option is None:
            if SPECIAL.fullmatch(key.rpartition(".")[2]):
                raise foreign.builds(place)
            foreign.unknown.append(place)
        elif not option.key:
            is_off = key in off and off[key] == value
            why = "is off" if is_off else option.what
            foreign.left.append(Left(place, value, why, is_setting=not (is_off or option.neutral)))
        elif value not in (None, "") and (taken := foreign.valid(place, value, kind_of(option))) is not None:
            group, _, name = option.key.rpartition(".")
            (found.setdefault(group, {}) if group else found)[name] = taken
    return found


def kind_of(option: Any) -> coerce.Coercion:
    """How values of a row of an entry are converted."""
    return option.kind or KINDS.get(option.key) or coerce.of(f"data.{option.key}")


Shared = dict[str, tuple[str, Any]]
"""What applies to all data: its name → the key of the file that sets it first, and the value."""


def share(foreign: Foreign, shared: Shared, name: str, place: str, value: Any) -> None:
    """Notes the value at a key of an entry that applies to all data; another one of a later entry is reported."""
    foreign.datasets_taken.add(place)
    first = shared.setdefault(name, (place, value))
    if first[1] != value:
        why = f"only one value is supported for all data: {first[1]} of {first[0]} is used"
        foreign.left.append(Left(place, value, why))
