"""The settings that a file is converted to, and the options that each came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loralab.schema.settings import Choice, Settings


@dataclass(slots=True)
class Ours(Settings):
    """Settings under construction."""

    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Key or group → the options that it came from."""
    given: Settings = field(default_factory=Settings)
    """The settings of the command line, which take precedence; `chosen` and `value` include them."""

    def choose(self, group: str, option: Choice, *names: str) -> None:
        self.choices[group] = option
        self.origins[group] = names

    def set(self, key: str, value: Any, *names: str) -> None:
        self.values[key] = value
        self.origins[key] = names

    def drop(self, key: str) -> Any:
        """Removes a value and returns it; None where there was none."""
        self.origins.pop(key, None)
        return self.values.pop(key, None)

    def chosen(self, group: str) -> Any:
        """The effective option of a group; None where neither the file nor the command line chooses one."""
        return self.given.choices.get(group, self.choices.get(group))

    def value(self, key: str) -> Any:
        """The effective value of a key; None where neither sets it."""
        return self.given.values.get(key, self.values.get(key))
