"""The runs in or below some folders at a moment: how far each is, and whether anything still runs."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from loralab.command import sweep
from loralab.command.run_folder import RECORD
from loralab.errors import UserError
from loralab.files import stamp
from loralab.report.gather import in_order, short_names
from loralab.report.loggers import leaf
from loralab.report.resumed_sweep import FILE, is_aside
from loralab.report.run import VALIDATION, Run, glance, read
from loralab.training import progress_file
from loralab.training.progress_file import Progress
from loralab.writing import LOCK, is_held


@dataclass(frozen=True)
class State:
    """One run."""

    name: str
    """Its folder, without what is common to all."""
    status: str
    progress: Progress
    settings: str = ""
    """The overrides that not all runs have."""
    why: str = ""
    """What went wrong."""

    @property
    def is_running(self) -> bool:
        return self.status == "running"


@dataclass(frozen=True)
class Moment:
    states: list[State]
    waiting: int
    """Runs that sweeps have still to start, as far as they say."""
    is_over: bool
    """Whether no process runs anything there, which a sweep does also between two runs."""


class Runs:
    """Those in or below some folders; what a process has written is read again where it has changed."""

    def __init__(self, roots: list[Path]) -> None:
        self.roots = [root.resolve() for root in roots]
        self._facts: dict[Path, tuple[int, dict[str, Any] | str]] = {}
        """By the folder of a run: the stamp of its record, and its facts, or why they cannot be read."""
        self._totals: dict[Path, int] = {}

    def now(self) -> Moment:
        folders, busy = self._folders()
        facts = {folder: self._read(folder) for folder in sorted(folders, key=in_order)}
        runs = {folder: found if isinstance(found, str) else Run(folder, found) for folder, found in facts.items()}
        names = short_names([*map(str, runs)])
        settings = what_differs([[] if isinstance(run, str) else run.overrides for run in runs.values()])
        states = [_state(*given) for given in zip(runs.values(), runs, names, settings, strict=True)]
        waiting = [self._total(folder) - sum(folder in run.parents for run in folders) for folder in busy]
        is_over = not busy and not any(state.is_running for state in states)
        return Moment(states, sum(count for count in waiting if count > 0), is_over)

    def _folders(self) -> tuple[set[Path], set[Path]]:
        """Those with the record of a run, and those without one that a process has locked: of sweeps, and of runs that
        begin."""
        runs, busy = set(), set()
        for root in self.roots:
            for name, inner, files in os.walk(root):
                if RECORD in files:
                    inner.clear()  # its pictures and states are many
                    runs.add(Path(name))
                elif LOCK in files and is_held(Path(name)):
                    busy.add(Path(name))
                inner[:] = [name for name in inner if not name.startswith(".")]  # GPUs that are taken
        return runs, busy

    def _read(self, folder: Path) -> dict[str, Any] | str:
        try:
            changed = stamp((folder / RECORD).stat())
            if folder not in self._facts or self._facts[folder][0] != changed:
                self._facts[folder] = changed, _facts(folder)
        except OSError:
            return f"{RECORD} cannot be read"
        except UserError as error:
            self._facts[folder] = changed, error.problems[0].found
        return self._facts[folder][1]

    def _total(self, sweep_folder: Path) -> int:
        """How many runs a sweep is to have; 0 where it does not say."""
        file = sweep_folder / FILE
        if sweep_folder not in self._totals and file.exists():
            try:
                total = OmegaConf.select(OmegaConf.load(file), f"hydra.callbacks.{sweep.ANNOUNCE}.total")
            except (OSError, ValueError, YAMLError, OmegaConfBaseException):
                total = None
            self._totals[sweep_folder] = total if isinstance(total, int) else 0
        return self._totals.get(sweep_folder, 0)


def _facts(folder: Path) -> dict[str, Any]:
    """Of the record of a run; its settings are not read, which takes longer. Raises a UserError where it is damaged."""
    run = glance(folder)
    if not isinstance(run.facts.get("status"), str):
        run = read(folder)  # says why
    _ = run.figures
    return run.facts


def _state(run: Run | str, folder: Path, name: str, settings: str) -> State:
    """run: or why it cannot be read."""
    if isinstance(run, str):
        return State(name, "not readable", Progress(0), settings, run)
    progress = progress_file.read(folder) or Progress(0)
    if run.metrics:  # recorded when the training has ended
        ended = {"loss": run.figures.get("loss"), "validation_loss": run.figures.get(VALIDATION)}
        steps, speed = run.figures.get("steps"), run.figures.get("images_per_second")
        step = steps if isinstance(steps, int) else progress.step
        progress = replace(progress, step=step, images_per_second=speed, **ended)
    if run.status != "running":
        progress = replace(progress, seconds_left=None)
    return State(name, run.how, progress, settings, run.errors[0] if run.errors else "")


def what_differs(given: list[list[str]]) -> list[str]:
    """The overrides of each run that not all have, by the last parts of their keys; without Hydra's own, and those that
    resume a run."""
    shown = [[_spelt(o) for o in overrides if not is_aside(o)] for overrides in given]
    common = set[str]().union(*shown).intersection(*shown)
    return [" ".join(leaf(o) for o in overrides if o not in common) for overrides in shown]


def _spelt(override: str) -> str:
    """Alike, whether a sweep or a user has written it."""
    key, equals, value = sweep.short(override.lstrip("+")).partition("=")
    return f"{key}{equals}{value.lower() if value in ('True', 'False') else value}"
