"""`python train.py … --dry-run`: what would be trained, how long it would take and how much it would write."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any, NamedTuple

from loralab.command import sweep
from loralab.data.epoch.planner import Planner
from loralab.errors import UserError
from loralab.report.environment import hardware
from loralab.report.gather import ROOTS, run_folders
from loralab.report.run import Run, glance, read
from loralab.schema.compose import Composed, compose
from loralab.schema.tree import Tree, leaves
from loralab.training.room import megabytes
from loralab.types import Fit

SHAPE = (
    *("model.", "adapter.", "targets.", "output.format", "output.precision"),
    *("data.resolution", "data.batch_size", "data.batch_pixels", "data.cache.latents"),
    *("trainer.accelerator", "trainer.devices", "trainer.precision", "trainer.accumulate_grad_batches"),
    *("callbacks.state.", "callbacks.export.", "callbacks.samples.", "callbacks.validation."),
)
"""Settings that runs have in common of which one takes as long for a step, and writes as much, as the other."""


class Measured(NamedTuple):
    """Medians of finished runs."""

    runs: int
    step: float
    """Seconds for an optimizer step."""
    rest: float
    """Seconds beside training: loading, pictures, validation."""
    size: int
    """Bytes in the folder of a run."""


def show(composed: Composed, swept: list[Any] | None, total: int, folder: Path | None) -> None:
    """Prints the plan. composed: the configuration, of a sweep that of its first point. swept: the overrides of a
    sweep; total: how many runs it has, of a search at most."""
    search = swept is not None and sweep.is_search()
    points = [*sweep.points(swept)] if swept and not search else [[]] * total
    trees = [compose(point).tree if point else composed.tree for point in points]
    alike = {_length_settings(tree): tree for tree in trees}  # a sweep's points mostly are as long as each other
    lengths = {settings: _steps(tree) for settings, tree in alike.items()}
    steps = [lengths[_length_settings(tree)] for tree in trees]
    for number, (point, count) in enumerate(zip(points, steps, strict=True), 1) if swept and not search else ():
        print(f"run {number} of {total}: {' '.join(sweep.own(point, swept or []))} · {count} steps")
    if search:
        space = [o.input_line or "" for o in swept or [] if o.is_sweep_override()]
        print(f"search    up to {total} runs of {steps[0]} steps among {' '.join(space)}")
    runs = "1 run" if total == 1 else f"{total} runs"
    print(f"{runs} · {sum(steps)} optimizer steps on one device · nothing was trained")
    finished = [*_finished(composed.tree["resume_root"])]
    found = [_measured(tree, finished) for tree in trees]
    known = [each for each in found if each]
    if len(known) < len(found):
        print("time and disk: unknown, as no finished run of this shape on this machine is in outputs or multirun")
    else:
        earlier = "1 earlier run" if known[0].runs == 1 else f"{known[0].runs} earlier runs"
        seconds = sum(each.rest + each.step * count for each, count in zip(known, steps, strict=True))
        print(f"time: about {timedelta(seconds=round(seconds))}, by the pace of {earlier}")
        print(f"disk: about {megabytes(sum(each.size for each in known))}")
    print(f"folder: {folder}")


def _length_settings(tree: Tree) -> str:
    return json.dumps([tree["trainer"], tree["data"]], default=str)


def _steps(tree: Tree) -> int:
    """Optimizer steps of a run; of epochs, by its images. Captions are not measured, which a model would be needed
    for."""
    trainer = tree["trainer"]
    if trainer["max_steps"]:
        return trainer["max_steps"]
    from loralab.report.summary import length  # imports torch

    accumulate = trainer["accumulate_grad_batches"]
    planner = Planner.of_settings(tree["data"])
    plan = planner.plan(planner.scan(), lambda text: Fit(1, 0))
    batches = len(planner.sampler(plan, tree["seed"], accumulate=accumulate))
    given = {"max_steps": -1, "limit_train_batches": trainer["limit_train_batches"] or 1.0}
    return length(SimpleNamespace(**{**trainer, **given}), batches)[0]  # type: ignore[arg-type]


def _measured(tree: Tree, finished: list[Run]) -> Measured | None:
    """What the runs of the shape of a configuration took; None where there are none."""
    shape = _shape(dict(leaves(tree)))
    runs = [run for run in finished if _shape(run.settings) == shape]
    if not runs:
        return None
    steps = [run.facts["training_seconds"] / run.facts["steps"] for run in runs]
    rest = [run.facts["seconds"] - run.facts["training_seconds"] for run in runs]
    return Measured(len(runs), median(steps), median(rest), int(median(_size(run.folder) for run in runs)))


def _finished(root: str) -> Iterator[Run]:
    """The finished runs of this machine that trained from start to end."""
    for folder in run_folders(map(Path, dict.fromkeys((root, *ROOTS)))):
        facts = glance(folder).facts
        whole = facts.get("status") == "finished" and not facts.get("resumed") and not facts.get("reused")
        if whole and facts.get("hardware") == hardware() and facts.get("steps"):
            with suppress(UserError):  # a damaged one
                yield read(folder)


def _shape(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key.startswith(SHAPE)}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in _files(folder))


def _files(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place, name) for name in names if Path(place, name).is_file())
