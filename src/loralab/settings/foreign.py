"""What a file of another trainer says: its options by sd-scripts' names, before they become ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loralab.errors import UserError
from loralab.settings.content import Content, shown
from loralab.settings.kinds import Kind, Within
from loralab.settings.table import OPTIONS

SPECIAL = re.compile(r"_\w+_")
"""Keys that Hydra gives a meaning of its own."""


OFF = frozenset(("", "0", "0.0", "false", "none", "no", "[]", "{}"))
"""Values that switch nothing on."""


class Left(NamedTuple):
    """Something the file says that has no counterpart here."""

    key: str
    value: Any
    why: str
    group: str = ""
    """Where set, the run would not be what the file asks for, unless this group is chosen on the command line."""
    is_setting: bool = True
    """Whether it asks for anything: not what came of a run."""

    @property
    def is_on(self) -> bool:
        """Whether it would have done something."""
        return bool(self.group) or (self.is_setting and str(self.value).lower() not in OFF)

    def __str__(self) -> str:
        return f"{shown(self.key)} = {shown(str(self.value))}: {self.why}"


@dataclass(slots=True)
class Foreign:
    """A file's options and what is not one of them."""

    dialect: str
    content: Content
    names: Iterable[str]
    """The keys that a file of this dialect may have."""
    absent: Mapping[str, Any] = field(default_factory=dict)
    """The dialect's own values of options that the file does not have."""
    blank: Mapping[str, Any] = field(default_factory=dict)
    """The values of options that the file has, but leaves empty."""
    options: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    """Where the file has each option."""
    empty: set[str] = field(default_factory=set)
    """Options that the file has, with a value that means none."""
    datasets: dict[str, Any] | None = None
    """A dataset configuration of sd-scripts: tables `general` and `datasets`."""
    datasets_taken: set[str] = field(default_factory=set)
    """Where a dataset configuration has what became a setting."""
    family: str = ""
    """Of the base model, where the file says it without naming one: sd1, sd2, sdxl."""
    left: list[Left] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, key: str, name: str, value: Any, empty: bool = False) -> None:
        """Takes in what stands at `key` of the file, as the option `name`."""
        if name not in OPTIONS:
            self._stranger(key)
            return
        if name in self.options:
            raise self.error(key, f"means the same as {self.keys[name]}", "keep one of them")
        self.imply(name, key, value)
        if empty:
            self.empty.add(name)

    def imply(self, name: str, key: str, value: Any) -> None:
        """Gives an option a value because of what stands at `key`."""
        self.options[name], self.keys[name] = value, key
        self.empty.discard(name)

    def _stranger(self, key: str) -> None:
        if SPECIAL.fullmatch(key):
            raise self.builds(key)
        names = {name.lower(): name for name in self.names}
        if key.lower() in names:
            raise self.error(key, "is written with other capitals", f"write {names[key.lower()]}")
        self.unknown.append(key)

    def has(self, name: str) -> bool:
        """Whether the file gives the option a value."""
        return name in self.options and name not in self.empty

    def take(self, name: str, kind: Kind) -> Any:
        """The value of an option, the dialect's own where the file gives none; None where that has none either."""
        assert name in OPTIONS, name
        if not self.has(name):
            return (self.blank if name in self.options else self.absent).get(name)
        return self.checked(name, self.options[name], kind)

    def checked(self, name: str, value: Any, kind: Kind) -> Any:
        """A value of the file's option `name`, as its kind; a UserError naming the key where it is none."""
        try:
            return kind(value)
        except Within as error:
            raise self.error(
                f"{self.keys[name]}.{error.name}", f"{_short(value)} does not fit", f"valid: {error}"
            ) from error
        except ValueError as error:
            raise self.error(self.keys[name], f"{_short(value)} does not fit", f"valid: {error}") from error

    def leave(self, name: str, why: str, group: str = "") -> None:
        """Reports an option that the file has as one without counterpart."""
        if name in self.options and self.keys[name] not in {left.key for left in self.left}:
            self.left.append(Left(self.keys[name], self.options[name], why, group))

    def drop(self, name: str) -> None:
        """Goes on as if the file did not have the option."""
        self.options.pop(name, None)
        self.empty.discard(name)

    def error(self, key: str, found: str, remedy: str = "") -> UserError:
        return self.content.error(key, found, remedy)

    def builds(self, key: str) -> UserError:
        """The error about a key that Hydra would build something by."""
        return self.error(key, "is a key that would build something", "remove it: settings files hold values only")


def _short(value: Any) -> str:
    return shown(value) if isinstance(value, str) else repr(value)[:80]
