"""Where a setting of a composed configuration was given: the override, the settings file, or the YAML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from loralab.schema.compose import CONF, Places, option_file
from loralab.schema.quoting import as_text, to_paste
from loralab.schema.tree import exists, get

Origins = Mapping[str, str]
"""Group or key → where the settings file sets it."""
NOWHERE: Origins = {}


class Sources:
    """choices: the option of each group; overrides: those given; origins: of those that come from a settings file."""

    def __init__(self, choices: dict[str, Any], overrides: list[str], origins: Origins = NOWHERE) -> None:
        self.choices, self.overrides, self.origins = choices, overrides, origins

    def where(self, path: str) -> str:
        """Where a setting was given, in words after a space; "" where it is derived."""
        if given := self.given(path):
            return given
        for file, package, written in reversed(self._files):
            for prefix in ("", f"{package}."):
                if path.startswith(prefix) and exists(written, path[len(prefix) :]):
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
        for _, package, written in self._files:
            here = path == package and path not in written  # a file of "@package _global_" contains it by its path
            node: Any = written if here else get(written, path) or get(written, path.removeprefix(f"{package}."))
            if isinstance(node, dict):
                replaces = "_target_" in node and node["_target_"] != found.get("_target_")
                found = dict(node) if replaces else {**found, **node}
        return found if "_target_" in found else {}

    @cached_property
    def _files(self) -> list[tuple[Path, str, dict[str, Any]]]:
        """The YAML files that were composed, each after those that it starts from: path, package and content."""
        files = [("", CONF / "train.yaml"), *Places.files(f"{Places.name}.yaml")]
        tops = [*dict.fromkeys(group.split("/")[0] for group in self.choices)][::-1]  # Hydra lists the last first
        # the file of a group overrides those of its sub-groups
        for group in sorted(self.choices, key=lambda g: (tops.index(g.split("/")[0]), -g.count("/"))):
            chosen = self.choices[group]
            options = chosen if isinstance(chosen, list) else [chosen]
            files += [f for option in options if option for f in composed_files(group.split("@")[0], str(option))]
        return [(file, group.strip(".").replace("/", "."), raw(file)) for group, file in files]


@cache
def raw(file: Path) -> dict[str, Any]:
    """A YAML file as it is written."""
    written = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return written if isinstance(written, dict) else {}  # type: ignore[return-value]


def composed_files(group: str, option: str) -> Iterator[tuple[str, Path]]:
    """The file of an option with its group, after those of its group that its own defaults list names."""
    file = option_file(group, option)
    if file is None:
        return
    for default in raw(file).get("defaults") or ():
        if isinstance(default, str) and default != "_self_":
            yield from composed_files(group, default.split("@")[0])
    yield group, file


def _cut(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:99]}…"
