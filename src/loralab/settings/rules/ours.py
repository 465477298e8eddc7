"""The settings that a file becomes, and which of its options each came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from loralab.settings.overrides import Choice, Settings


@dataclass(slots=True)
class Ours(Settings):
    """Settings in the making."""

    origins: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The options that each key or group came from."""
    given: Settings = field(default_factory=Settings)
    """What the command line says, which counts more: a rule that asks what is chosen asks for this, too."""

    def choose(self, group: str, option: Choice, *names: str) -> None:
        self.choices[group] = option
        self.origins[group] = names

    def set(self, key: str, value: Any, *names: str) -> None:
        self.values[key] = value
        self.origins[key] = names

    def drop(self, key: str) -> Any:
        """Takes a value back, and gives it; None where there was none."""
        self.origins.pop(key, None)
        return self.values.pop(key, None)

    def chosen(self, group: str) -> Any:
        """The option of a group that will hold; None where neither the file nor the command line chooses any."""
        return self.given.choices.get(group, self.choices.get(group))

    def value(self, key: str) -> Any:
        """The value of a key that will hold; None where neither says it."""
        return self.given.values.get(key, self.values.get(key))
