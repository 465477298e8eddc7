"""The `loralab` section of our own settings files: what the old names cannot say."""

from __future__ import annotations

import re
from typing import Any

from loralab.settings import kinds
from loralab.settings.content import Content
from loralab.settings.foreign import SPECIAL
from loralab.settings.overrides import Settings

NAME = "loralab"

GROUP = re.compile(r"[a-z_]+(/[a-z_]+)*")
OPTION = re.compile(r"\w[\w.-]*")
KEY = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


def section_of(content: Content) -> Settings:
    """The section's choices and values, {} where the file has none. Raises a UserError for what should not be in it."""
    given = content.data.get(NAME, {}) if content.format == "json" else {}
    if not isinstance(given, dict) or set(given) - {"choices", "values"}:
        raise content.error(NAME, "is not a section that this program wrote", "remove it, or save the settings again")
    found = Settings(_table(content, given, "choices"), _table(content, given, "values"))
    for group, option in found.choices.items():
        options = option if isinstance(option, list) else [option]
        plain = all(isinstance(o, str) and OPTION.fullmatch(o) for o in options)
        if not (plain and GROUP.fullmatch(group) and group.split("/")[0] != "hydra"):
            raise content.error(f"{NAME}.choices.{group}", "chooses nothing that can be chosen", "remove it")
    for key, value in found.values.items():
        parts = key.split(".")
        if not KEY.fullmatch(key) or parts[0] == "hydra" or any(map(SPECIAL.fullmatch, parts)):
            raise content.error(f"{NAME}.values.{key}", "is no setting", "remove it")
        _check(content, f"{NAME}.values.{key}", value)
    return found


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
