"""The `loralab` section of our own settings and adapter files: what the names of other trainers cannot express."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from loralab.importers.content import Content, shown
from loralab.importers.foreign import SPECIAL
from loralab.schema import coerce
from loralab.schema.catalogue import OPTIONS
from loralab.schema.renamed import OPTIONS as OPTIONS_RENAMED
from loralab.schema.renamed import current_keys
from loralab.schema.settings import Settings
from loralab.training.metadata import RECIPE
from loralab.training.signature import DEVICES, LOADING, PLACES, THIS_RUN

NAME = RECIPE

GROUP = re.compile(r"[a-z_]+(/[a-z_]+)*")
OPTION = re.compile(r"\w[\w.-]*", re.ASCII)
KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
INNER_KEY = re.compile(r"\w+", re.ASCII)
"""As in the grammar of Hydra's overrides."""


OF_THE_RUN = ("settings", "allow")
"""Settings about settings files, and the allow-list: never saved."""
NOT_A_FILES = ("hydra", *OF_THE_RUN)
"""What a file cannot set."""
LEFT_OUT = (
    *PLACES,
    *DEVICES,
    *LOADING,
    *THIS_RUN,
    *("experiment", "debug", "sweep", "report", "output.folder", "data.cache"),
    *("suggested.pictures", "suggested.prompts", "suggested.guidance"),
    *(f"callbacks.{name}" for name in ("state", "progress", "monitor", "hparams", "interrupt", "samples", "export")),
    "callbacks.sample_losses",
    "callbacks.tag_occurrence",
)
"""Paths, the machine, logging: not stored in adapter files, so that equal trainings give equal files."""


@dataclass(slots=True)
class Section:
    """All choices and values. Old names take precedence over them, so that a file can be edited."""

    settings: Settings = field(default_factory=Settings)
    instead: set[str] = field(default_factory=set)
    """Groups and keys for which the section takes precedence, because old names cannot express the value."""

    def under(self, said: Settings) -> Settings:
        """The settings from the old names and the section together."""
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
        """This section over that of the file that this one starts from; `said`: the old names that this file sets."""
        instead = {name for name in below.instead if not said & self.said_by(name)}
        return Section(self.settings.over(below.settings), self.instead | instead)

    @staticmethod
    def said_by(name: str) -> set[str]:
        """The options that set a group or key."""
        return {o.name for o in OPTIONS.values() if o.key.partition("=")[0] == name or o.key.startswith(f"{name}.")}

    def skip(self, name: str) -> bool:
        """Drops a group or key. Returns whether it was there."""
        return bool(self.settings.without(name, rivals=False))


def below(key: str, prefix: str) -> bool:
    """Whether a dotted key is the prefix or below it."""
    return key == prefix or key.startswith(f"{prefix}.")


def is_left_out(name: str) -> bool:
    """Whether a group or key is not stored in adapter files."""
    return any(below(name.replace("/", "."), other) for other in LEFT_OUT)


def section_of(content: Content, warnings: list[str]) -> Section:
    """A file's section, an empty one where it has none; adds a warning about ignored settings. Raises a UserError for
    invalid content."""
    given = _given(content)
    if not isinstance(given, dict) or set(given) - {"choices", "values", "instead"}:
        raise content.error(NAME, "is not a section written by loralab", "remove it, or save the settings again")
    found = Settings(_table(content, given, "choices"), current_keys(_table(content, given, "values")))
    found.choices = {g: OPTIONS_RENAMED.get((g, o), o) if isinstance(o, str) else o for g, o in found.choices.items()}
    for group, option in found.choices.items():
        options = option if isinstance(option, list) else [option]
        plain = all(isinstance(o, str) and OPTION.fullmatch(o) for o in options)
        if not (plain and GROUP.fullmatch(group)) or group.split("/")[0] in NOT_A_FILES:
            raise content.error(f"{NAME}.choices.{group}", "invalid group or option", "remove it")
    for key, value in found.values.items():
        parts = key.split(".")
        if not KEY.fullmatch(key) or parts[0] in NOT_A_FILES or any(map(SPECIAL.fullmatch, parts)):
            raise content.error(f"{NAME}.values.{key}", "cannot be set in a settings file", "remove it")
        _check(content, f"{NAME}.values.{key}", value)
    instead = given.get("instead", [])
    if not isinstance(instead, list) or not all(isinstance(name, str) for name in instead):
        raise content.error(f"{NAME}.instead", "is not a list of names", "remove it, or save the settings again")
    if content.format == "safetensors" and (foreign := list(filter(is_left_out, [*found.choices, *found.values]))):
        warnings.append(f"has settings of another machine, which are ignored: {', '.join(map(shown, foreign))}")
        for name in foreign:
            found.without(name, rivals=False)
    return Section(found, set(instead))


def _given(content: Content) -> Any:
    """The section of a JSON file, or of the metadata of an adapter file, where it is a JSON text."""
    if content.format not in ("json", "safetensors") or not isinstance(content.data, dict):
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
        raise content.error(f"{NAME}.{name}", "is not a table", "remove it, or save the settings again")
    return dict(table)


def _check(content: Content, where: str, value: Any) -> None:
    """Raises a UserError for a value that would make Hydra build or interpolate something."""
    if isinstance(value, str):
        try:
            coerce.text(value)
        except ValueError as error:
            raise content.error(where, "is not a plain value", f"write {error}") from error
    if isinstance(value, float) and value != value:
        raise content.error(where, "is NaN", "write a number")
    if isinstance(value, list):
        for part in value:
            _check(content, where, part)
    if isinstance(value, dict):
        for key, part in value.items():
            if not INNER_KEY.fullmatch(key) or SPECIAL.fullmatch(key):
                raise content.error(
                    where, f"contains the key {key!r:.40}, which is not allowed", "write plain values only"
                )
            _check(content, f"{where}.{key}", part)
