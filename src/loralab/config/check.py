"""The strict check of a composed configuration: every node against the constructor it will call."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loralab.config import rules
from loralab.config.compose import CONF, group_options, values
from loralab.config.overrides import composition_problem, exists
from loralab.config.signature import parameters
from loralab.errors import Problem
from loralab.optim.ranges import RANGES

OURS = "loralab."
THIRD_PARTIES = (
    "torch.optim.",
    "bitsandbytes.optim.",
    "lightning.",
    "transformers.",
    "diffusers.",
    "prodigyopt.",
    "dadaptation.",
    "schedulefree.",
)


Origins = Mapping[str, str]
"""Where a settings file has the groups and keys that come from it."""
NOWHERE: Origins = {}

OPTIONAL = frozenset(("experiment", "sweep", "debug"))
"""Groups of which nothing need be chosen."""


class Check:
    """One pass over a composed configuration; `problems` holds all that was found."""

    def __init__(
        self, cfg: DictConfig, choices: dict[str, Any], overrides: list[str], origins: Origins = NOWHERE
    ) -> None:
        self.choices, self.overrides, self.origins = choices, overrides, origins
        self.problems: list[Problem] = []
        self.primary = _raw(CONF / "train.yaml")
        self.groups = {group.split("/")[0] for group in group_options()}
        try:
            self.tree = values(cfg)
        except OmegaConfBaseException as error:
            self.problems = [composition_problem(error)]
            return
        allow = self.tree.get("allow")
        if not isinstance(allow, list) or not all(isinstance(prefix, str) and prefix for prefix in allow):
            self._add("allow", f"{allow!r} does not fit", "valid: a list of import prefixes, like [my_package.]")
            allow = []
        self.trusted = (OURS, *THIRD_PARTIES, *allow)
        self._top_level()
        told = {problem.setting for problem in self.problems}
        for problem in rules.contradictions(self.tree, choices, overrides, misshapen=bool(self.problems)):
            if problem.setting in told:
                continue  # of a value that does not fit there is no more to say
            self.problems.append(replace(problem, found=problem.found + self._given(problem.setting)))

    def _top_level(self) -> None:
        known = {k for k in self.primary if k not in ("defaults", "hydra")} | self.groups
        chosen = {group for entry in self.primary["defaults"] if isinstance(entry, dict) for group in entry}
        for group in sorted(self.groups & chosen - self.tree.keys() - OPTIONAL):
            self._add(group, "is missing", "options: " + ", ".join(group_options()[group]))
        for name, node in self.tree.items():
            if name not in known:
                self._unknown(name, known)
            elif name in rules.BY_NAME:
                self._nodes_by_name(name, node)
            elif is_node(node):
                self._node(name, node)
            elif isinstance(self.primary.get(name), dict):
                self._plain(name, node, self.primary[name])

    def _nodes_by_name(self, group: str, nodes: Any) -> None:
        for name, node in (nodes or {}).items():
            if is_node(node):
                self._node(f"{group}.{name}", node)
                if not isinstance(node.get("enabled", True), bool):
                    self._add(f"{group}.{name}.enabled", f"{node['enabled']!r} does not fit", "valid: true or false")
            elif node is not None:
                self._unknown(f"{group}.{name}", [f"{group}.{n}" for n in nodes if n != name])

    def _plain(self, path: str, node: Any, known: dict[str, Any]) -> None:
        """A node that nothing is built from: its keys and kinds of values are those of train.yaml."""
        for key, value in (node or {}).items():
            if key not in known:
                self._unknown(f"{path}.{key}", [f"{path}.{k}" for k in known])
            elif wrong := _unlike(known[key], value):
                self._add(f"{path}.{key}", f"{value!r} does not fit", f"valid: {wrong}")

    def _node(self, path: str, node: dict[str, Any]) -> None:
        target = node["_target_"]
        if not isinstance(target, str) or not target.startswith(self.trusted):
            found = f"'{target}' is not on the allow-list of what a configuration may build"
            self._add(f"{path}._target_", found, "add its prefix to `allow` if you trust it: allow=[my_package.]")
        elif target.startswith(OURS):
            self._ours(path, node, target)
        else:
            self._third_party(path, node)

    def _ours(self, path: str, node: dict[str, Any], target: str) -> None:
        signature = parameters(target)
        if signature is None:
            return self._add(f"{path}._target_", f"'{target}' does not exist", "choose an option of the group instead")
        for key, value in settings_of(path, node):
            if key not in signature:
                self._unknown(f"{path}.{key}", [f"{path}.{k}" for k in signature])
                continue
            self._nested(f"{path}.{key}", value)
            if not is_node(value) and (wrong := signature[key].mismatch(value)):
                self._add(f"{path}.{key}", f"{value!r} does not fit", f"valid: {wrong}")
        if not node.get("_partial_"):
            for key, parameter in signature.items():
                if parameter.required and key not in node:
                    self._add(f"{path}.{key}", "is missing", f"give it: {path}.{key}=…")
        return None

    def _nested(self, path: str, value: Any) -> None:
        """Nodes inside a setting: a built object, or a dict of them by name."""
        if is_node(value):
            self._node(path, value)
        elif isinstance(value, dict):
            for name, node in value.items():
                if is_node(node):
                    self._node(f"{path}.{name}", node)

    def _third_party(self, path: str, node: dict[str, Any]) -> None:
        """Bare signatures: keys and types are those of the YAML, ranges stand in one table."""
        written = self._as_written(path)
        for key, value in settings_of(path, node):
            if is_node(value):
                self._node(f"{path}.{key}", value)
            elif written and key not in written:
                self._unknown(f"{path}.{key}", [f"{path}.{k}" for k in written])
            elif wrong := _unlike(written.get(key), value) or _out_of_range(path, key, value):
                self._add(f"{path}.{key}", f"{value!r} does not fit", f"valid: {wrong}")

    def _as_written(self, path: str) -> dict[str, Any]:
        """The node as the chosen option's YAML writes it."""
        group, _, name = path.partition(".")
        for file in self._files:
            if file.parent.relative_to(CONF).as_posix() == group:
                raw = _raw(file)
                node = raw.get(name) if name else raw
                if isinstance(node, dict) and (not name or "_target_" in node):
                    return node
        return {}

    @cached_property
    def _files(self) -> list[Path]:
        """The YAML files that were composed, each after those that it starts from."""
        files = [CONF / "train.yaml"]
        tops = [group for group in self.choices if "/" not in group][::-1]  # Hydra names the last first
        # a group's own file has the last word over those of its sub-groups
        for group in sorted(self.choices, key=lambda g: (tops.index(g.split("/")[0]), -g.count("/"))):
            chosen = self.choices[group]
            options = chosen if isinstance(chosen, list) else [chosen]
            files += [f for option in options if option for f in _composed(CONF / group.split("@")[0], str(option))]
        return files

    def source(self, path: str) -> str:
        """Where a setting was given: the override or the file it stands in."""
        if given := self._given(path):
            return given
        for file in reversed(self._files):
            package = "" if file == CONF / "train.yaml" else file.parent.relative_to(CONF).as_posix().replace("/", ".")
            for prefix in ("", f"{package}."):
                if path.startswith(prefix) and exists(_raw(file), path[len(prefix) :]):
                    return f" (in {file.relative_to(CONF.parent)})"
        return ""

    def _given(self, path: str) -> str:
        """The override that gave a setting, or where the settings file has it that the override comes from."""
        for override in self.overrides:
            key = override.lstrip("+").split("=")[0]
            if path == key or (key not in self.choices and path.startswith(f"{key}.")):
                return f" ({self.origins.get(key) or f'given as {override}'})"
        return ""

    def _unknown(self, path: str, valid: Any) -> None:
        near = difflib.get_close_matches(path, list(valid), 1, 0.6)
        names = ", ".join(sorted(v.rpartition(".")[2] for v in valid))
        remedy = f"did you mean '{near[0]}'?" if near else f"valid: {names}"
        self._add(path, "there is no such setting", remedy)

    def _add(self, path: str, found: str, remedy: str) -> None:
        self.problems.append(Problem(path, found + self.source(path), remedy))


def is_node(value: Any) -> bool:
    """Whether something is built from the value."""
    return isinstance(value, dict) and "_target_" in value


def settings_of(path: str, node: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings of a node: Hydra's own keys left out, and the `enabled` that run.py reads of every callback."""
    for key, value in node.items():
        if not (key.startswith("_") and key.endswith("_")) and not (key == "enabled" and path.startswith("callbacks.")):
            yield key, value


@cache
def _raw(file: Path) -> dict[str, Any]:
    """A YAML file as it is written."""
    raw = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    return raw if isinstance(raw, dict) else {}  # type: ignore[return-value]


def _composed(folder: Path, option: str) -> Iterator[Path]:
    """The file of an option, after those of its group that its own defaults list names."""
    file = folder / f"{option}.yaml"
    if not file.is_file():
        return
    for default in _raw(file).get("defaults") or ():
        if isinstance(default, str) and default != "_self_":
            yield from _composed(folder, default.split("@")[0])
    yield file


def _unlike(written: Any, value: Any) -> str | None:
    """The kind of value that the YAML writes, where `value` is of another kind; null fits everywhere."""
    if value is None:
        return None
    if written is None:
        return "a plain value" if isinstance(value, dict) else None
    if isinstance(written, (dict, list)):
        return None if isinstance(value, type(written)) else f"like {written}"
    if isinstance(written, bool):
        return None if isinstance(value, bool) else "true or false"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(written, (int, float)):
        return None if number else f"a number, like {written:g}"
    if written.startswith("${suggested."):
        return None if number else "a number"
    return None if isinstance(value, str) or number else f"text, like {written}"


def _out_of_range(path: str, key: str, value: Any) -> str | None:
    limits = RANGES.get(path.split(".")[0], {}).get(key)
    numbers = value if isinstance(value, list) else [value]
    numbers = [n for n in numbers if isinstance(n, (int, float)) and not isinstance(n, bool)]
    return str(limits) if limits is not None and any(n not in limits for n in numbers) else None
