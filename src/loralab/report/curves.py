"""The curves of a run, from what its loggers wrote into its folder: TensorBoard's event files, CSV files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from loralab.report.run import LOSS, VALIDATION
from loralab.scorers.scores import SCORES

Curve = dict[int, float]
"""Optimizer step → value, in the order of the steps."""

POINTS = 400
"""A chart is drawn from at most so many points of a curve."""
TRAINED, RATE = "validation/trained", "lr/"
_TRAINING = ("loss_step", "loss_epoch", "loss")
"""The names of the training loss, the finest first."""


def curves(folder: Path) -> tuple[dict[str, Curve], list[str]]:
    """By name: `loss`, `validation/loss`, `validation/trained`, the scores and `lr/PART`, as far as they exist; and
    the names of files that cannot be read. Where a step was logged twice, as by a resumed run, the later value counts.
    """
    found: dict[str, Curve] = {}
    unread = []
    for file in sorted([*folder.rglob("events.out.tfevents.*"), *folder.rglob("metrics.csv")], key=lambda f: f.name):
        try:
            for name, step, value in _rows(file) if file.suffix == ".csv" else _events(file):
                found.setdefault(name, {})[step] = value
        except Exception as error:  # whatever a damaged file makes of its reader
            unread.append(f"{file.name} cannot be read: {type(error).__name__}")
    return _wanted({name: dict(sorted(curve.items())) for name, curve in found.items()}), unread


def thinned(curve: Curve) -> list[list[float | None]]:
    """[steps, values] of at most POINTS evenly chosen points and the last one; None for what is not finite."""
    points = list(curve.items())
    chosen = points[:: -(-len(points) // POINTS) or 1]
    chosen += points[-1:] if chosen[-1:] != points[-1:] else []
    return [[step for step, _ in chosen], [float(f"{v:.5g}") if math.isfinite(v) else None for _, v in chosen]]


def lowest(curve: Curve) -> tuple[int, float] | None:
    """The step with the lowest finite value, and the value."""
    return min(((s, v) for s, v in curve.items() if math.isfinite(v)), key=lambda point: point[1], default=None)


def _wanted(found: dict[str, Curve]) -> dict[str, Curve]:
    training = [found[name] for name in _TRAINING if name in found]
    wanted = {LOSS: max(training, key=len)} if training else {}
    wanted |= {name: found[name] for name in (VALIDATION, TRAINED, *SCORES) if name in found}
    rates = [name for name in sorted(found) if name.startswith(RATE)]
    return wanted | {name: found[name] for i, name in enumerate(rates) if found[name] not in _all(found, rates[:i])}


def _all(found: dict[str, Curve], names: list[str]) -> list[Curve]:
    return [found[name] for name in names]


def _events(file: Path) -> Iterator[tuple[str, int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator

    sizes = {**dict.fromkeys(STORE_EVERYTHING_SIZE_GUIDANCE, 1), "scalars": 0}  # 0: all; of pictures and texts only one
    events = EventAccumulator(str(file), size_guidance=sizes).Reload()
    for name in events.Tags()["scalars"]:
        yield from ((name, event.step, event.value) for event in events.Scalars(name))


def _rows(file: Path) -> Iterator[tuple[str, int, float]]:
    with open(file, newline="", encoding="utf8") as text:
        for row in csv.DictReader(text):
            yield from ((name, int(row["step"]), float(value)) for name, value in row.items() if value and name)
