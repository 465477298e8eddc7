"""Where adapters come from: the files of runs, and files alone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from loralab.command.run_folder import RECORD
from loralab.errors import Problem, UserError, user_error
from loralab.files import what_is_at
from loralab.models.checkpoint import examine
from loralab.report.gather import run_folders, short_names
from loralab.report.run import Run, read
from loralab.training.file_names import BEST
from loralab.training.metadata import RECIPE

FILE = "FILE"
MOST_WORDS = 4
"""Overrides in the title of a run."""
_NAMES = {r"-step(\d+)": "step", r"-(\d{6,})": "epoch"}
"""What follows the name of a file that was saved during training."""


@dataclass(frozen=True)
class Source:
    """A run, or a file alone."""

    title: str
    files: dict[str, Path]
    """By what they are called: step 500, epoch 3, best. The final one is the last."""
    model: str | None = None
    """The option of the group model that it was trained with; None where that is not known."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of its training, by dotted key, as far as they are known."""
    metadata: dict[str, str] = field(default_factory=dict)
    """Of a file alone."""
    run: Run | None = None
    """Of a file alone, the one in whose folder it lies."""

    @property
    def is_file(self) -> bool:
        return "" in self.files


def sources(paths: list[Path]) -> tuple[list[Source], list[str]]:
    """The runs in or below folders, and files alone; and notes on what was skipped.

    Raises a UserError for paths that are neither, and where no adapter file is left.
    """
    if wrong := [Problem(str(path), what_is_at(path), "give run folders or adapter files") for path in _lost(paths)]:
        raise UserError(*wrong)
    found: list[Source] = []
    notes: list[str] = []
    for path in paths:
        if path.is_file():
            found.append(_of_file(path))
            continue
        folders = [*run_folders([path])]
        if not folders:
            raise user_error(str(path), f"contains no {RECORD}", "give the folder of a run, or adapter files")
        for folder in folders:
            try:
                found.append(_of_run(read(folder), notes))
            except UserError as error:
                notes.append(f"skipped {error.problems[0].setting}: {error.problems[0].found}")
    if not found:
        raise UserError(*(Problem(FILE, note, "give the folder of a finished run") for note in notes))
    return _titled(found), notes


def _lost(paths: Iterable[Path]) -> Iterator[Path]:
    return (path for path in paths if not path.is_dir() and not path.is_file())


def _of_file(path: Path) -> Source:
    """A file alone; one that lies in the folder of a run is known by that run."""
    metadata = examine(path, FILE).metadata
    if (path.parent / RECORD).is_file():
        with suppress(UserError):
            run = read(path.parent)
            return Source(path.stem, {"": path}, _option(run), run.settings, metadata, run)
    try:
        recipe = json.loads(metadata.get(RECIPE, "{}"))
        option, settings = recipe.get("choices", {}).get("model"), recipe.get("values", {})
    except (ValueError, AttributeError, RecursionError):  # it is not ours
        option, settings = None, {}
    return Source(path.stem, {"": path}, option if isinstance(option, str) else None, dict(settings), metadata)


def _of_run(run: Run, notes: list[str]) -> Source:
    """A run with the files that are left of it. Raises a UserError where there are none."""
    name, format = (run.settings.get(f"output.{key}", usual) for key, usual in (("name", "adapter"), ("format", "")))
    recorded = [Path(str(file)) for file in run.listed("files")] or sorted(
        run.folder.glob(f"{name}*.{format}"), key=lambda file: file.stat().st_mtime_ns
    )
    files: dict[str, Path] = {}
    for file in recorded:
        if file.suffix != f".{format}":
            continue
        there = next((place for place in (run.folder / file.name, file) if place.is_file()), None)
        if there is None:
            notes.append(f"skipped {file}: it was not found")
            continue
        called = _called(file.stem.removeprefix(str(name)), run)
        files.pop(called, None)  # the final file has the weights of that step, too
        files[called] = there
    if not files:
        raise user_error(str(run.folder), f"contains no adapter file ({run.status})", "give a run that has saved one")
    return Source(run.folder.name, files, _option(run), run.settings, run=run)


def _called(suffix: str, run: Run) -> str:
    """What a file is called on the sheet: by its step where that is known."""
    for pattern, word in _NAMES.items():
        if match := re.fullmatch(pattern, suffix):
            return f"{word} {int(match[1])}"
    if suffix in ("", BEST):
        steps = run.facts.get("steps")
        return "best" if suffix else f"step {steps}" if steps and run.facts.get("files") else "final"
    return suffix.strip("-")


def _option(run: Run) -> str | None:
    """The option of the group model that a run was composed with."""
    with suppress(OSError, ValueError, YAMLError, OmegaConfBaseException):
        file = OmegaConf.load(run.folder / "config" / "hydra.yaml")
        return OmegaConf.select(file, "hydra.runtime.choices.model")
    return None


def _titled(found: list[Source]) -> list[Source]:
    """With titles that tell them apart: names of runs, else the overrides in which they differ, else their places."""
    if len(found) == 1:
        return found
    words = [source.run.overrides if source.run and not source.is_file else [source.title] for source in found]
    everywhere = set(words[0]).intersection(*words)
    names = [source.run.name if source.run and not source.is_file else source.title for source in found]
    overrides = [" ".join(_short(word) for word in own if word not in everywhere) for own in words]
    if max(len(title.split()) for title in overrides) > MOST_WORDS:
        overrides = []  # of runs that have little in common
    places = [str(next(iter(s.files.values())) if s.is_file or not s.run else s.run.folder) for s in found]
    for titles in (names, overrides, short_names(places), places):
        if titles and all(titles) and len(set(titles)) == len(titles):
            return [replace(source, title=title) for source, title in zip(found, titles, strict=True)]
    return found


def _short(override: str) -> str:
    """optimizer.lr=1e-3 → lr=1e-3"""
    key, sign, value = override.partition("=")
    return f"{key.rpartition('.')[2]}{sign}{value}"
