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

    def choose(self, group: str, option: Choice, *names: str) -> None:
        self.choices[group] = option
        self.origins[group] = names

    def set(self, key: str, value: Any, *names: str) -> None:
        self.values[key] = value
        self.origins[key] = names
