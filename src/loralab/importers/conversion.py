"""From a settings file of any trainer to overrides of this one's configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loralab.errors import Problem, UserError
from loralab.importers import content as contents
from loralab.importers.content import Content
from loralab.importers.foreign import OFF, Foreign, Left
from loralab.importers.layers import layers
from loralab.importers.recognition import PEERS
from loralab.importers.rules import catalogue_rows, data, network, scheduler, targets
from loralab.importers.rules.block_lists import blocks
from loralab.importers.rules.folders import folders
from loralab.importers.rules.groups import drop_unknown
from loralab.importers.rules.length import length
from loralab.importers.rules.model import model
from loralab.importers.rules.musubi import musubi
from loralab.importers.rules.named_layers import named_layers
from loralab.importers.rules.optimizer import optimizer
from loralab.importers.rules.ours import Ours
from loralab.importers.rules.samples import samples
from loralab.importers.rules.saving import saving
from loralab.importers.rules.timesteps import timesteps
from loralab.schema.settings import Settings

RULES: tuple[Callable[[Foreign, Ours], None], ...] = (
    musubi,
    network.arguments,
    catalogue_rows.plain,
    catalogue_rows.switches,
    model,
    data.images,
    data.resolution,
    data.buckets,
    data.cache,
    data.token_warmup,
    folders,
    length,
    targets.targets,
    network.network,
    targets.rates,
    blocks,
    network.loraplus,
    scheduler.scheduler,
    scheduler.warmup,
    catalogue_rows.conditional,
    named_layers,
    optimizer,
    timesteps,
    samples,
    saving,
    drop_unknown,
)
"""In this order: a rule may use the results of earlier ones. `by` in the catalogue names those that are no rows."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A settings file, with those that it starts from, as settings of this project."""

    path: Path
    dialect: str
    settings: Settings
    not_applicable: list[Left] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    taken: int = 0
    """The number of the file's keys that became settings."""
    origins: dict[str, str] = field(default_factory=dict)
    """Group or key → where it comes from, in words."""
    said: frozenset[str] = frozenset()
    """The groups and keys that the file itself sets; others are defaults of its dialect."""
    problems: list[Problem] = field(default_factory=list)
    """Invalid values in the file."""

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
            "notes": self.warnings,
        }

    def report(self) -> str:
        """A summary of the file in one line."""
        parts = [
            f"{self.taken} setting{'s' * (self.taken != 1)} applied",
            f"{len(self.not_applicable)} ignored",
        ]
        if self.unknown:
            parts.append(f"{len(self.unknown)} unknown: {', '.join(map(contents.shown, self.unknown))}")
        return f"{self.path.name} ({self.dialect}): {', '.join(parts)}"


def read(path: str | Path, skip: Iterable[str] = ()) -> Converted:
    """Reads a settings file without the names in `skip`. Raises a UserError that names the file and the key."""
    found = converted(contents.read(path), skip)
    if found.problems:
        raise UserError(*found.problems)
    return found


def converted(content: Content, skip: Iterable[str] = (), given: Settings | None = None) -> Converted:
    """Converts a file's content; given: the settings of the command line. Raises a UserError where it cannot be read;
    invalid values are listed in `problems`."""
    foreign, section = layers(content, skip)
    ours = Ours(given=given or Settings())
    _drop_unsure(foreign, ours)
    for rule in PEERS[foreign.dialect].RULES if foreign.dialect in PEERS else RULES:
        rule(foreign, ours)
    _leave_the_rest(foreign, ours)
    taken = _taken(foreign) or len(section.settings.values)
    if len(foreign.unknown) > taken + len(foreign.left):
        raise _mostly_unknown(foreign)
    return Converted(
        content.path,
        foreign.dialect,
        section.under(ours),
        foreign.left,
        foreign.unknown,
        foreign.warnings,
        taken=taken,
        origins={key: _place(foreign, names) for key, names in ours.origins.items()},
        said=frozenset(key for key, names in ours.origins.items() if _says(foreign, names)),
        problems=foreign.problems,
    )


def _taken(foreign: Foreign) -> int:
    gone, nested = {left.key for left in foreign.left}, foreign.dialect in PEERS
    keys = {key if nested else key.partition(".")[0] for key in foreign.keys.values()}
    return len(keys - gone) + len(foreign.datasets_taken - gone)


def _drop_unsure(foreign: Foreign, ours: Ours) -> None:
    """Drops options whose values depend on running a script: the command line has to give them."""
    for name, why in dict(foreign.unsure).items():
        key = foreign.rows[name].key if name in foreign.rows else ""
        if key and ours.value(key) is None:
            remedy = f"write its value into the file, or set {key}=… and settings.skip=[{name}]"
            foreign.problem(name, why, remedy)
        foreign.leave(name, why)
        foreign.drop(name)


def _says(foreign: Foreign, names: tuple[str, ...]) -> bool:
    return any(map(foreign.has, names)) or ("dataset_config" in names and foreign.datasets is not None)


def _place(foreign: Foreign, names: tuple[str, ...]) -> str:
    """The file's keys that a setting came from, in words."""
    said = [name for name in names if foreign.has(name)]
    keys = list(dict.fromkeys(contents.shown(foreign.keys[name]) for name in said))
    file = contents.shown(foreign.files.get(said[0] if said else "", foreign.content).path.name)
    if not keys and "dataset_config" in names:
        keys = ["datasets"]
    return f"{', '.join(keys)} in {file}" if keys else f"default of {foreign.dialect}, not set in {file}"


def _leave_the_rest(foreign: Foreign, ours: Ours) -> None:
    """Reports every option that did not become a setting: nothing is dropped silently."""
    used = {name for names in ours.origins.values() for name in names}
    for name in list(foreign.options):
        option = foreign.rows[name]
        if not option.key:
            foreign.leave(name, option.what)
        elif foreign.has(name) and used.isdisjoint((name, *option.by.split())):
            is_off = not option.why and str(foreign.options[name]).lower() in OFF
            foreign.leave(name, "is off" if is_off else catalogue_rows.why_not(option))


def _mostly_unknown(foreign: Foreign) -> UserError:
    """The error about a file whose settings are mostly unknown."""
    known = [contents.shown(key) for key in dict.fromkeys(foreign.keys.values())]
    unknown = [contents.shown(key) for key in foreign.unknown]
    found = f"contains mostly unknown settings. Known: {_some(known)}. Unknown: {_some(unknown)}"
    return contents.no_settings(foreign.content.path, found)


def _some(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") if names else "nothing"
