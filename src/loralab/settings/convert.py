"""From a settings file of any trainer to overrides of this one's configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loralab.settings import content as contents
from loralab.settings.content import Content
from loralab.settings.dialects import DIALECTS, dialect_of
from loralab.settings.foreign import Foreign, Left
from loralab.settings.overrides import Settings
from loralab.settings.rules.data import data
from loralab.settings.rules.folders import folders
from loralab.settings.rules.groups import drop_what_is_not_there
from loralab.settings.rules.length import length
from loralab.settings.rules.logs import logs
from loralab.settings.rules.model import model
from loralab.settings.rules.network import network
from loralab.settings.rules.objective import objective
from loralab.settings.rules.optimizer import optimizer
from loralab.settings.rules.ours import Ours
from loralab.settings.rules.plain import plain
from loralab.settings.rules.samples import samples
from loralab.settings.rules.saving import saving
from loralab.settings.rules.scheduler import scheduler
from loralab.settings.rules.targets import targets
from loralab.settings.section import section_of
from loralab.settings.table import OPTIONS

RULES: tuple[Callable[[Foreign, Ours], None], ...] = (
    plain,
    model,
    data,
    folders,
    length,
    targets,
    network,
    scheduler,
    optimizer,
    objective,
    samples,
    saving,
    logs,
)
"""In this order: a later one may look at what an earlier one made of its options."""


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
    origins: dict[str, str] = field(default_factory=dict)
    """Where each group and key of the settings comes from, in words."""

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
        if not (_skip(foreign, name) | section.skip(name)):
            foreign.warnings.append(f"has no {contents.shown(name)}, which settings.skip leaves out")
    ours = Ours()
    for rule in RULES:
        rule(foreign, ours)
    drop_what_is_not_there(foreign, ours)
    _leave_the_rest(foreign)
    return Converted(
        content.path,
        dialect,
        section.under(ours),
        foreign.left,
        foreign.unknown,
        foreign.warnings,
        taken=_taken(foreign) or len(section.settings.values),
        origins={key: _place(foreign, names) for key, names in ours.origins.items()},
    )


def _taken(foreign: Foreign) -> int:
    gone = {left.key for left in foreign.left}
    return len({key.partition(".")[0] for key in foreign.keys.values()} - gone) + len(foreign.datasets_taken - gone)


def _place(foreign: Foreign, names: tuple[str, ...]) -> str:
    """The file's keys that a setting came from."""
    keys = list(dict.fromkeys(contents.shown(foreign.keys[name]) for name in names if foreign.has(name)))
    file = contents.shown(foreign.content.path.name)
    if not keys and "dataset_config" in names:
        keys = ["datasets"]
    return f"{', '.join(keys)} in {file}" if keys else f"not in {file}: the value of {foreign.dialect}"


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
