"""From a settings file of any trainer to overrides of this one's configuration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loralab.settings import content as contents
from loralab.settings.content import Content
from loralab.settings.dialects import DIALECTS, dialect_of
from loralab.settings.foreign import Foreign, Left
from loralab.settings.overrides import Settings
from loralab.settings.rules import RULES
from loralab.settings.rules.groups import drop_what_is_not_there
from loralab.settings.rules.ours import Ours
from loralab.settings.section import section_of
from loralab.settings.table import OPTIONS


@dataclass(frozen=True, slots=True)
class Converted:
    """What a settings file says, in this project's terms."""

    path: Path
    dialect: str
    settings: Settings
    not_applicable: list[Left] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    taken: int = 0
    """How many of the file's keys became settings."""

    @property
    def overrides(self) -> list[str]:
        """As they would be typed after `python train.py`."""
        return self.settings.lines()

    def as_json(self) -> dict[str, Any]:
        return {
            "dialect": self.dialect,
            "overrides": self.overrides,
            "not_applicable": [{"key": left.key, "value": left.value, "why": left.why} for left in self.not_applicable],
            "unknown": self.unknown,
        }

    def report(self) -> str:
        """One line on what became of the file."""
        parts = [f"{self.taken} settings taken", f"{len(self.not_applicable)} without a counterpart"]
        if self.unknown:
            parts.append(f"{len(self.unknown)} unknown: {', '.join(map(contents.shown, self.unknown))}")
        return f"{self.path.name} ({self.dialect}): {', '.join(parts)}"


def read(path: str | Path, skip: Iterable[str] = ()) -> Converted:
    """Reads a settings file, but for the names in `skip`. Raises a UserError that names the file, and the key."""
    return converted(contents.read(path), skip)


def converted(content: Content, skip: Iterable[str] = ()) -> Converted:
    """What a file's content says; see `read`."""
    dialect = dialect_of(content)
    foreign: Foreign = DIALECTS[dialect].read(content)
    section = section_of(content)
    for name in skip:
        if not (_skip(foreign, name) | bool(section.without(name))):
            foreign.warnings.append(f"has no {contents.shown(name)}, which settings.skip leaves out")
    ours = Ours()
    for rule in RULES:
        rule(foreign, ours)
    drop_what_is_not_there(foreign, ours)
    _leave_the_rest(foreign)
    gone = {left.key for left in foreign.left}
    return Converted(
        content.path,
        dialect,
        section.over(ours),
        foreign.left,
        foreign.unknown,
        foreign.warnings,
        taken=sum(key not in gone for key in foreign.keys.values()),
    )


def _skip(foreign: Foreign, name: str) -> bool:
    """Leaves out a key of the file, by its own name or any other dialect's. Whether it is there."""
    option = next((dialect.NAMES[name] for dialect in DIALECTS.values() if name in dialect.NAMES), name)
    there = option in foreign.options or name in foreign.unknown
    foreign.drop(option)
    foreign.keys.pop(option, None)
    foreign.absent = {key: value for key, value in foreign.absent.items() if key != option}
    return there


def _leave_the_rest(foreign: Foreign) -> None:
    for name in list(foreign.options):
        if not OPTIONS[name].key:
            foreign.leave(name, OPTIONS[name].what)
