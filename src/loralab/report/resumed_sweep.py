"""A sweep that was started before: its overrides, and which of its points are not finished."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from loralab.command import sweep
from loralab.errors import user_error
from loralab.importers.expand import value_of
from loralab.places import full
from loralab.report.gather import ROOTS
from loralab.report.run import Run, glance
from loralab.schema.settings import written

RESUME = "sweep.resume"
FILE = "multirun.yaml"
"""Hydra's record of a sweep, in its folder."""
DONE = ("finished", "finished with errors", "diverged")
"""Statuses of points that would give the same again."""
LAUNCHER = ("hydra/launcher", "hydra.launcher")
SWEEPER = ("hydra/sweeper", "hydra.sweeper")
"""The search, or the points, where these are set and not swept."""
OF_THE_START = ("allow", "resume", "resume_force", "resume_root")
"""Settings that may be others when a sweep is continued."""

Points = list[tuple[int, list[str]]]
"""The number of a point, from 0, and its overrides."""


def expanded(overrides: list[str]) -> list[str] | None:
    """The overrides of the sweep that `sweep.resume=FOLDER` continues; None without it.

    What may be built, and the launcher, can be given beside it. Raises a UserError where the folder is not of a sweep.
    """
    given = value_of(overrides, RESUME)
    if given is None:
        return None
    beside = [o for o in overrides if _key(o) != RESUME]
    if others := [o for o in beside if _key(o) != "allow" and not _key(o).startswith(LAUNCHER)]:
        found = f"takes all settings from the folder: {' '.join(others)} has no effect"
        raise user_error(RESUME, found, "remove the others, or repeat the command of the sweep with resume=auto")
    folder = full(str(given))
    recorded = _recorded(folder)
    if recorded is None:
        raise user_error(RESUME, f"'{given}' has no {FILE} that can be read", "give the folder of a sweep")
    return [*recorded, *beside, f"hydra.sweep.dir={written(str(folder))}", "resume=auto"]


def started(overrides: list[str]) -> Path | None:
    """The folder of the newest sweep with these overrides, below multirun/, by whatever launcher."""
    mine = _ours(o for o in overrides if not _is_of_the_start(o))
    folders = [folder for folder in _sweeps(Path(ROOTS[-1])) if _ours(_recorded(folder) or []) == mine]
    return max(folders, key=lambda folder: (folder / FILE).stat().st_mtime, default=None)


def unfinished(folder: Path, swept: list[Override]) -> tuple[Points, Points]:
    """The points of a sweep that are done in its folder, and those that are not. swept: its overrides.

    Raises a UserError where the folder has other points.
    """
    done, left = [], []
    for number, point in enumerate(sweep.points(swept)):
        run = glance(folder / str(number))
        if run.facts and {*sweep.own(run.overrides, swept)} != {*sweep.own(point, swept)}:
            found = f"{folder / str(number)} is a run of another sweep"
            raise user_error("resume", found, f"repeat the command of that sweep, or {RESUME}={folder}")
        (done if run.status in DONE else left).append((number, _ours(point)))
    return done, left


def done_before(folder: Path, overrides: list[str]) -> Run | None:
    """The run of a point with these overrides that is done in its folder: a search that goes on may ask for it."""
    run = glance(folder)
    its, given = ({o for o in each if not _is_of_the_start(o)} for each in (run.overrides, overrides))
    return run if run.status in DONE and its == given else None


def _sweeps(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        if FILE in files:
            names.clear()
            yield Path(folder).absolute()


def _recorded(folder: Path) -> list[str] | None:
    """The overrides of the sweep in a folder, without those that a new start may give otherwise."""
    try:
        cfg: Any = OmegaConf.to_container(OmegaConf.load(folder / FILE), resolve=False)
        task, ours = (list(map(str, cfg["hydra"]["overrides"][name])) for name in ("task", "hydra"))
    except (OSError, ValueError, TypeError, KeyError, YAMLError, RecursionError, OmegaConfBaseException):
        return None
    chosen = [o for o in ours if _key(o).startswith((*LAUNCHER, *SWEEPER))]
    return [o for o in [*task, *chosen] if not _is_of_the_start(o)]


def is_aside(override: str) -> bool:
    """Whether an override says nothing of what is trained: Hydra's own, and those of the start."""
    return _key(override).startswith(("hydra.", "hydra/")) or _is_of_the_start(override)


def _ours(overrides: Iterable[str]) -> list[str]:
    """Those that are not Hydra's own."""
    return [o for o in overrides if not _key(o).startswith(("hydra.", "hydra/"))]


def _is_of_the_start(override: str) -> bool:
    return _key(override) in OF_THE_START or _key(override) == "hydra.sweep.dir"


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def announced_as_done(done: Iterable[tuple[int, list[str]]], swept: list[Override], folder: Path, total: int) -> str:
    """A line for each point that is done."""
    lines = [
        f"run {number + 1} of {total}: {' '.join(sweep.own(point, swept))}: {glance(folder / str(number)).status}"
        for number, point in done
    ]
    return "\n".join(f"{line} earlier" for line in lines)
