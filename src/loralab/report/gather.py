"""The runs in or below some folders, and what differs between them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from loralab.command.run_folder import RECORD
from loralab.errors import UserError, user_error
from loralab.report.run import Run, read

ROOTS = ("outputs", "multirun")
"""The folders in which runs and sweeps are made, where nothing else is set."""


def gather(folders: list[Path]) -> tuple[list[Run], dict[str, str]]:
    """The runs in or below some folders; and those that cannot be compared, with the reason."""
    runs, damaged = [], {}
    for given in folders:
        found = [*run_folders([given])]
        if not found:
            damaged[str(given)] = f"contains no {RECORD}" if given.is_dir() else "folder not found"
        for folder in found:
            try:
                runs.append(read(folder))
            except UserError as error:
                damaged[str(folder)] = error.problems[0].found
    return runs, damaged


def given_or_usual(folders: list[Path]) -> list[Path]:
    """Folders that a verb is given, else those of `ROOTS` that exist. Raises a UserError for one that does not."""
    for folder in folders:
        if not folder.is_dir():
            raise user_error("FOLDER", f"folder '{folder}' not found", "give a folder that contains runs")
    return folders or [folder for folder in map(Path, ROOTS) if folder.is_dir()]


def run_folders(roots: Iterable[Path]) -> Iterator[Path]:
    """The folders of all runs in or below these, each once; those of a sweep by their numbers."""
    seen: set[str] = set()
    for root in roots:
        for folder in sorted((Path(folder) for folder, _, files in os.walk(root) if RECORD in files), key=in_order):
            if os.path.realpath(folder) not in seen:
                seen.add(os.path.realpath(folder))
                yield folder


def in_order(path: Path) -> list[tuple[int, str]]:
    """2 before 10."""
    return [(len(part) if part.isdigit() else 0, part) for part in path.parts]


def short_names(folders: list[str]) -> list[str]:
    """The paths with their common beginning removed, but at least one name left to each."""
    parts = [Path(folder).parts for folder in folders]
    longest = max(0, min(map(len, parts), default=0) - 1)
    shared = next((i for i in range(longest) if len({part[i] for part in parts}) > 1), longest)
    return [str(Path(*part[shared:])) for part in parts]


def differing(runs: list[Run]) -> list[str]:
    """Settings that differ between the runs, except `suggested.*`, which only give others their defaults."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.startswith("suggested."))
    return [key for key in keys if any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)]
