"""What the folder of a run says of it: its record, run.json, and its configuration, config/config.yaml."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.errors import user_error
from loralab.report import gather
from loralab.schema.tree import leaves
from loralab.writing import is_held

Differences = dict[str, tuple[Any, Any]]
"""Dotted key → the value of the one and of the other; None where it has none."""

ROOTS = ("outputs", "multirun")
"""The folders in which runs and sweeps are made, where nothing else is set."""
ENVIRONMENT = ("versions", "hardware", "git", "device")
INPUTS = ("inputs",)
RESULTS = ("status", "steps", "epochs", "loss", "metrics", "seconds", "images_per_second", "peak_memory_gb", "digests")


@dataclass(frozen=True)
class Manifest:
    """facts: of run.json. settings: the resolved configuration, by dotted key."""

    folder: Path
    facts: dict[str, Any]
    settings: dict[str, Any]

    @property
    def status(self) -> str:
        """As recorded; a run that is recorded as running, while no process holds its folder, was killed."""
        status = str(self.facts["status"])
        return "killed" if status == "running" and not is_held(self.folder) else status

    @property
    def name(self) -> str:
        """`run.name`, "" where it has none."""
        name = self.settings.get("run.name")
        return "" if name is None else str(name)

    @property
    def tags(self) -> list[str]:
        tags = self.settings.get("run.tags")
        return [*map(str, tags)] if isinstance(tags, list) else []

    def part(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Some of its facts."""
        return {name: self.facts[name] for name in names if name in self.facts}


def read(folder: Path) -> Manifest:
    """The manifest of a run's folder. Raises a UserError where there is none, or it is damaged."""
    try:
        run = gather.read(folder)
    except gather.Damaged as why:
        raise user_error(str(folder), str(why), "give the folder of a run, with its run.json") from None
    return Manifest(folder, run.record, run.settings)


def facts_of(folder: Path) -> dict[str, Any]:
    """The record of a run alone, which is read in a moment; {} for a damaged one."""
    try:
        facts = json.loads((folder / "run.json").read_text(encoding="utf8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def record_folders(roots: Iterable[Path]) -> Iterator[Path]:
    """The folders of all runs in or below these, each once."""
    seen: set[str] = set()
    for root in roots:
        for folder, names, files in os.walk(root):
            if "run.json" in files:
                names.clear()  # its pictures and states are many
                if os.path.realpath(folder) not in seen:
                    seen.add(os.path.realpath(folder))
                    yield Path(folder)


def differences(one: Any, other: Any) -> Differences:
    """The leaves that differ between two mappings; what is no mapping has none."""
    a, b = (dict(leaves(tree)) if isinstance(tree, Mapping) else {} for tree in (one, other))
    return {key: (a.get(key), b.get(key)) for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)}


def in_words(found: Differences) -> Iterator[str]:
    """A line for each difference."""
    yield from (f"{key}: {shown(one)} → {shown(other)}" for key, (one, other) in found.items())


def shown(value: Any) -> str:
    """A value for display; "–" for one that is not there."""
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
