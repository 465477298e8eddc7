"""The strict check of a composed configuration: every node is compared with the constructor it will call."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

from omegaconf.errors import OmegaConfBaseException

from loralab.checks import rules
from loralab.errors import Problem, invalid
from loralab.schema.compose import CONF, OPTIONAL, Composed, group_options
from loralab.schema.composition import composition_problem
from loralab.schema.constructors import parameters
from loralab.schema.elsewhere import remedy_for
from loralab.schema.nearest import did_you_mean
from loralab.schema.sources import NOWHERE, Origins, Sources, raw
from loralab.schema.third_party import misfit
from loralab.schema.tree import get, is_node, plain_values, settings_of
from loralab.schema.trusted import ENTRY, OURS, is_trusted, nodes

HYDRAS_OWN = ("_args_", "_convert_", "_partial_", "_recursive_")
"""Keys that control how Hydra builds a node. Their values in conf/ are part of the program."""


class Check:
    """One pass over a composed configuration; `problems` holds all that was found.

    here: whether to check files, devices and packages of this machine, too.
    """

    def __init__(self, composed: Composed, origins: Origins = NOWHERE, here: bool = True) -> None:
        self.sources = Sources(composed, origins)
        self.problems: list[Problem] = []
        self.primary = raw(CONF / "train.yaml")
        self.groups = {group.split("/")[0] for group in group_options()}
        try:
            self.tree = composed.tree
        except (OmegaConfBaseException, RecursionError) as error:
            self.problems = [composition_problem(error)]
            return
        self.allow = self._allowed()
        self.checked: set[str] = set()
        self._top_level()
        for path, _ in nodes(self.tree):
            if path not in self.checked:
                self._add(path, "_target_ is not allowed here", "give a plain value")
        self._texts()
        told = {problem.setting for problem in self.problems}
        for problem in rules.contradictions(
            self.tree, composed.choices, composed.overrides, misshapen=bool(self.problems), here=here
        ):
            if problem.setting in told:
                continue  # its value is already reported as invalid
            self.problems.append(replace(problem, found=problem.found + self.sources.given(problem.setting)))

    def _allowed(self) -> list[str]:
        """What `allow` adds to the allow-list. Only the user may set it, on the command line: never a file."""
        allow = self.tree.get("allow")
        if not isinstance(allow, list) or not all(isinstance(name, str) and ENTRY.fullmatch(name) for name in allow):
            self.problems.append(invalid("allow", allow, "a list of import names, such as [my_package.]"))
            return []
        typed = any(o.lstrip("+").partition("=")[0] == "allow" for o in self.sources.overrides)
        if allow != self.primary["allow"] and (not typed or "allow" in self.sources.origins):
            self._add(
                "allow",
                "can only be set on the command line",
                "remove it from the file and pass allow=[…] on the command line",
            )
            return []
        return allow

    def _texts(self) -> None:
        for path, value in plain_values(self.tree):
            if isinstance(value, str) and "\0" in value:
                self._add(path, "contains a null character", "remove it")

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
            elif is_node(self.primary.get(name)) or name in chosen - OPTIONAL:
                self._add(
                    name, "cannot be null" if node is None else "has no _target_", "keep the value that conf/ gives it"
                )
            elif isinstance(self.primary.get(name), dict):
                self._plain(name, node, self.primary[name])

    def _nodes_by_name(self, group: str, nodes: Any) -> None:
        for name, node in (nodes or {}).items():
            if is_node(node):
                self._node(f"{group}.{name}", node)
                if not isinstance(node.get("enabled", True), bool):
                    self._invalid(f"{group}.{name}.enabled", node["enabled"], "true or false")
            elif node is not None:
                self._unknown(f"{group}.{name}", [f"{group}.{n}" for n in nodes if n != name])

    def _plain(self, path: str, node: Any, known: dict[str, Any]) -> None:
        """A node that nothing is built from: its keys and types of values are those of train.yaml."""
        for key, value in (node or {}).items():
            if key not in known:
                self._unknown(f"{path}.{key}", [f"{path}.{k}" for k in known])
            elif wrong := misfit(f"{path}.{key}", value, known[key]):
                self._invalid(f"{path}.{key}", value, wrong)

    def _node(self, path: str, node: dict[str, Any]) -> None:
        self.checked.add(path)
        target = node["_target_"]
        if not is_trusted(path, target, self.allow):
            found = f"'{target!s:.80}' is not on the allow-list"
            return self._add(f"{path}._target_", found, "if you trust it, add its import name: allow=[…]")
        if path == "model" and not target.startswith(OURS):
            self._register_family(target)
        self._how_it_is_built(path, node)
        return self._ours(path, node, target) if target.startswith(OURS) else self._third_party(path, node)

    def _register_family(self, target: str) -> None:
        """Imports the module of an allowed model from outside, where its family registers itself."""
        try:
            import_module(target.rpartition(".")[0])
        except ImportError as error:
            self._add("model._target_", f"'{target}' cannot be imported: {error}", "check its name, and PYTHONPATH")

    def _how_it_is_built(self, path: str, node: dict[str, Any]) -> None:
        """Hydra's own keys must be as in conf/; a node of the user's own may set all but positional arguments."""
        written = self.sources.as_written(path) or get(self.primary, path, {})
        for key in HYDRAS_OWN:
            if key == "_args_" or is_node(written):
                expected: tuple[Any, ...] = (written.get(key),)
            else:
                expected = (None, "none", "partial", "object", "all") if key == "_convert_" else (None, True, False)
            if not any(type(node.get(key)) is type(valid) and node.get(key) == valid for valid in expected):
                self._add(f"{path}.{key}", "cannot be changed", "remove it")

    def _ours(self, path: str, node: dict[str, Any], target: str) -> None:
        signature = parameters(target)
        if signature is None:
            return self._add(f"{path}._target_", f"'{target}' not found", "choose an option of the group instead")
        for key, value in settings_of(path, node):
            if key not in signature:
                self._unknown(f"{path}.{key}", [f"{path}.{k}" for k in signature])
                continue
            if wrong := signature[key].mismatch(value):
                if value is None and signature[key].required:
                    self._add(f"{path}.{key}", "is missing", f"set {path}.{key}=…")
                else:
                    self._invalid(f"{path}.{key}", value, wrong)
            elif signature[key].is_built:
                self._nested(f"{path}.{key}", value)
        if not node.get("_partial_"):
            for key, parameter in signature.items():
                if parameter.required and key not in node:
                    self._add(f"{path}.{key}", "is missing", f"set {path}.{key}=…")
        return None

    def _nested(self, path: str, value: Any) -> None:
        """An object to build inside a setting, or a dict of them by name."""
        if is_node(value):
            self._node(path, value)
        elif isinstance(value, dict):
            for name, node in value.items():
                if is_node(node):
                    self._node(f"{path}.{name}", node)

    def _third_party(self, path: str, node: dict[str, Any]) -> None:
        """Signatures without types: keys and types are those of the YAML, ranges are in one table."""
        written = self.sources.as_written(path)
        for key, value in settings_of(path, node):
            if is_node(value) and (not written or is_node(written.get(key))):
                self._node(f"{path}.{key}", value)
            elif written and key not in written:
                self._unknown(f"{path}.{key}", [f"{path}.{k}" for k in written])
            elif wrong := misfit(f"{path}.{key}", value, written.get(key, value)):  # itself where there is no YAML
                self._invalid(f"{path}.{key}", value, wrong)

    def _unknown(self, path: str, valid: Any) -> None:
        names = ", ".join(sorted(v.rpartition(".")[2] for v in valid))
        self._add(path, "unknown setting", remedy_for(path) or did_you_mean(path, valid) or f"valid: {names}")

    def _invalid(self, path: str, value: Any, valid: str) -> None:
        problem = invalid(path, value, valid)
        self._add(path, problem.found, problem.remedy + self.sources.as_text(path, value, valid))

    def _add(self, path: str, found: str, remedy: str) -> None:
        self.problems.append(Problem(path, found + self.sources.where(path), remedy))
