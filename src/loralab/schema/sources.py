"""Where a setting of a composed configuration was given: the override, the settings file, or the YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from loralab.schema.compose import CONF, Composed
from loralab.schema.quoting import as_text, to_paste
from loralab.schema.renamed import current_target
from loralab.schema.tree import exists, get

Origins = Mapping[str, str]
"""Group or key → where the settings file sets it."""
NOWHERE: Origins = {}


class Sources:
    """composed: the configuration; origins: of those overrides that come from a settings file."""

    def __init__(self, composed: Composed, origins: Origins = NOWHERE) -> None:
        self.choices, self.overrides, self.origins = composed.choices, composed.overrides, origins
        self._files = composed.files

    def where(self, path: str) -> str:
        """Where a setting was given, in words after a space; "" where it is derived."""
        if given := self.given(path):
            return given
        for file, package in reversed(self._files):
            if (inside := within(package, path)) and exists(raw(file), inside):
                return f" (in {file.relative_to(CONF.parent) if file.is_relative_to(CONF) else file})"
        return ""

    def given(self, path: str) -> str:
        """The override that set it, or its place in the settings file, in words after a space; "" where none did."""
        for override in self.overrides:
            key = override.lstrip("+").split("=")[0]
            if path == key or (key not in self.choices and path.startswith(f"{key}.")):
                return f" ({self.origins.get(key) or f'given as {_cut(override)}'})"
        return ""

    def as_text(self, path: str, value: Any, valid: str) -> str:
        """How to type a value that should be text but was parsed as a number."""
        given = next((o for o in self.overrides if o.lstrip("+").partition("=")[0] == path), None)
        if given is None or not isinstance(value, (int, float)) or not valid.startswith(("text", "a path")):
            return ""
        meant = as_text(given)
        return f"; to pass it as text: {to_paste(meant.input_line or '')}" if meant else ""

    def as_written(self, path: str) -> dict[str, Any]:
        """The node at a path as written in the composed YAML files; {} where it is in none."""
        found: dict[str, Any] = {}
        for file, package in self._files:
            inside = within(package, path)
            node: Any = raw(file) if inside == "" else inside and get(raw(file), inside)
            if isinstance(node, dict):
                target = current_target("_target_", node.get("_target_"))
                replaces = "_target_" in node and target != current_target("_target_", found.get("_target_"))
                found = dict(node) if replaces else {**found, **node}
        return found if "_target_" in found else {}


@cache
def raw(file: Path) -> dict[str, Any]:
    """A YAML file as it is written."""
    written = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return written if isinstance(written, dict) else {}  # type: ignore[return-value]


def within(package: str, path: str) -> str | None:
    """The path of a setting in a file of that package; "" for the whole file, None where it is elsewhere."""
    if package in ("", path):
        return "" if package else path
    return path.removeprefix(f"{package}.") if path.startswith(f"{package}.") else None


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"
