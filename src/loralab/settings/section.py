"""The `loralab` section of our own settings and adapter files: what the names of other trainers cannot say."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from loralab.settings import kinds
from loralab.settings.content import Content, shown
from loralab.settings.foreign import SPECIAL
from loralab.settings.overrides import Settings
from loralab.settings.table import OPTIONS
from loralab.training.metadata import RECIPE
from loralab.training.signature import DEVICES, LOADING, PLACES, THIS_RUN

NAME = RECIPE

GROUP = re.compile(r"[a-z_]+(/[a-z_]+)*")
OPTION = re.compile(r"\w[\w.-]*")
KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


OF_THE_RUN = ("settings", "allow")
"""What was asked of a run's settings files, or allowed to it: in no file."""
NOT_A_FILES = ("hydra", *OF_THE_RUN)
"""What a file cannot set."""
LEFT_OUT = (
    *PLACES,
    *DEVICES,
    *LOADING,
    *THIS_RUN,
    *("experiment", "debug", "sweep", "output.folder", "data.cache"),
    *("suggested.pictures", "suggested.prompts", "suggested.guidance"),
    *(f"callbacks.{name}" for name in ("state", "progress", "monitor", "hparams", "interrupt", "samples", "export")),
    "callbacks.tag_occurrence",
)
"""Paths, the machine, what is watched: an adapter file says nothing of them, and equal trainings give equal files."""


@dataclass(slots=True)
class Section:
    """The choices made and all values. Where the old names say something, they count, so that they can be edited."""

    settings: Settings = field(default_factory=Settings)
    instead: set[str] = field(default_factory=set)
    """Groups and keys for which the section counts all the same, because old names cannot say it."""

    def under(self, said: Settings) -> Settings:
        """What the old names and the section together come to."""
        found = Settings(dict(self.settings.choices), dict(self.settings.values))
        for group, option in said.choices.items():
            if group not in self.instead and found.choices.get(group) != option:
                found.without(group)  # of an option that is no longer chosen
                found.choices[group] = option
        groups = tuple(f"{group}." for group in self.instead)
        for key, value in said.values.items():
            if key not in self.instead and not key.startswith(groups):
                found.values[key] = value
        return found

    def over(self, below: Section, said: set[str]) -> Section:
        """This section over that of a file that this one starts from, whose old names `said` takes back."""
        instead = {name for name in below.instead if not said & self.said_by(name)}
        return Section(self.settings.over(below.settings), self.instead | instead)

    @staticmethod
    def said_by(name: str) -> set[str]:
        """The options that set a group or key."""
        return {o.name for o in OPTIONS.values() if o.key.partition("=")[0] == name or o.key.startswith(f"{name}.")}

    def skip(self, name: str) -> bool:
        """Leaves a group or key out. Whether it was there."""
        return bool(self.settings.without(name, rivals=False))


def below(key: str, prefix: str) -> bool:
    """Whether a dotted key is the prefix or below it."""
    return key == prefix or key.startswith(f"{prefix}.")


def is_left_out(name: str) -> bool:
    """Whether an adapter file says nothing of a group or key."""
    return any(below(name.replace("/", "."), other) for other in LEFT_OUT)


def section_of(content: Content, warnings: list[str]) -> Section:
    """A file's section, an empty one where it has none; adds to the warnings what of it is not taken. Raises a
    UserError for what should not be in it."""
    given = _given(content)
    if not isinstance(given, dict) or set(given) - {"choices", "values", "instead"}:
        raise content.error(NAME, "is not a section that this program wrote", "remove it, or save the settings again")
    found = Settings(_table(content, given, "choices"), _table(content, given, "values"))
    for group, option in found.choices.items():
        options = option if isinstance(option, list) else [option]
        plain = all(isinstance(o, str) and OPTION.fullmatch(o) for o in options)
        if not (plain and GROUP.fullmatch(group)) or group.split("/")[0] in NOT_A_FILES:
            raise content.error(f"{NAME}.choices.{group}", "chooses nothing that can be chosen", "remove it")
    for key, value in found.values.items():
        parts = key.split(".")
        if not KEY.fullmatch(key) or parts[0] in NOT_A_FILES or any(map(SPECIAL.fullmatch, parts)):
            raise content.error(f"{NAME}.values.{key}", "cannot be set by a settings file", "remove it")
        _check(content, f"{NAME}.values.{key}", value)
    instead = given.get("instead", [])
    if not isinstance(instead, list) or not all(isinstance(name, str) for name in instead):
        raise content.error(f"{NAME}.instead", "is no list of names", "remove it, or save the settings again")
    if content.format == "safetensors" and (foreign := list(filter(is_left_out, [*found.choices, *found.values]))):
        warnings.append(f"has settings of another machine, which are not taken: {', '.join(map(shown, foreign))}")
        for name in foreign:
            found.without(name, rivals=False)
    return Section(found, set(instead))


def _given(content: Content) -> Any:
    """The section as it stands in a JSON, or as a JSON text in the metadata of an adapter file."""
    if content.format not in ("json", "safetensors"):
        return {}
    table = content.data if content.format == "json" else content.data.get("__metadata__", {})
    given = table.get(NAME, {})
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        return None


def _table(content: Content, given: dict[str, Any], name: str) -> dict[str, Any]:
    table = given.get(name, {})
    if not isinstance(table, dict):
        raise content.error(f"{NAME}.{name}", "is no table", "remove it, or save the settings again")
    return dict(table)


def _check(content: Content, where: str, value: Any) -> None:
    """Nothing in a value may build or look up anything."""
    if isinstance(value, str):
        try:
            kinds.text(value)
        except ValueError as error:
            raise content.error(where, "is no plain value", f"write {error}") from error
    if isinstance(value, float) and value != value:
        raise content.error(where, "is not a number", "write one")
    if isinstance(value, list):
        for part in value:
            _check(content, where, part)
    if isinstance(value, dict):
        for key, part in value.items():
            if not re.fullmatch(r"\w+", key) or SPECIAL.fullmatch(key):
                raise content.error(where, f"holds the key {key!r:.40}", "write plain values only")
            _check(content, f"{where}.{key}", part)
