"""Which images and tags of a run are learnt best and worst, from its log of losses; see effects for the formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loralab.errors import user_error
from loralab.report.effects import (
    Effects,
    Outliers,
    Residuals,
    TagEffect,
    against_base,
    difference,
    effects,
    learnt_by_log,
    measured,
    outliers,
    residuals,
    tag_effects,
)
from loralab.report.measure import FILE, Measured, OutOfDate
from loralab.report.measure import read as read_measured
from loralab.training.loss_log import FOLDER, LoggedImage, read_all

PERIODS = 10
SAMPLES_A_PERIOD = 3
"""Of each image, on average; a short run has fewer periods."""
FEWEST_COMPARED, FEWEST_FOR_LEARNT = 5, 20
"""Samples of which the base model's loss is known, without which it is no baseline, and tells nothing of images."""
BASELINES = {
    True: "Losses are multiples of the base model's usual loss at the same timesteps, known from {} of these samples.",
    False: "Losses are multiples of what is usual in this run at the same timesteps: the log has {} losses of the base "
    "model, too few for a baseline.",
}
LEARNT_BY_LOG = (
    "Learnt is an image's loss in the second half of the run as a multiple of the base model's for the same noise."
)
MISLED = "its caption misleads the base model: probably wrong"
WIDTH = 1.96
"""Standard errors on each side of a 95 % interval."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """A factor and its 95 % interval; None where it is not known."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(slots=True)
class ImageRow:
    """What is said of an image."""

    path: str
    caption: str
    digest: str
    samples: int
    loss: Ratio
    """As a multiple of what is usual at the same timesteps, of the baseline of Analysis."""
    change: Ratio
    """Of its loss, from the first to the last third of the run."""
    learnt: Ratio | None
    """Its loss with the adapter as a multiple of that of the base model: where it was measured (see measure), by that;
    else by the samples of the run's second half of which both are known, where there are enough."""
    fit: Ratio | None
    """The base model's loss with its caption as a multiple of that without one, where it was measured."""
    distance: float
    """Of its loss from that of the median image (see Outliers)."""
    reasons: list[str]
    """Why it is to be looked at first; empty for most images."""
    curve: list[float | None]
    """Its loss in each period, as a multiple of the base model's usual loss; where that is not the baseline, of that of
    the median image in the first."""


@dataclass(frozen=True, slots=True)
class TagRow:
    """A tag, and how the images with it differ from those without (see effects.tag_effects)."""

    tag: str
    images: int
    loss: Ratio
    change: Ratio
    learnt: Ratio | None


@dataclass(slots=True)
class Analysis:
    """rows: the images to be looked at first, then the others; tags: likewise: those learnt least first where that was
    measured, else those with the highest loss."""

    samples: int
    steps: tuple[int, int]
    """The first and the last optimizer step in the log."""
    ends: list[int]
    """The last step of each period."""
    change: float | None
    """That of the median image."""
    limit: float | None
    """Distances beyond it are outliers; None where there are too few images to tell."""
    compared: int
    """Samples of which the base model's loss is known, too."""
    by_base: bool
    """Whether the base model's usual loss is the baseline, or, where too few samples are compared, this run's."""
    baseline: str
    """The same in words."""
    measured: bool
    """Whether it was measured what the adapter has learnt of each image."""
    rows: list[ImageRow]
    tags: list[TagRow]
    notes: list[str] = field(default_factory=list)


def analyse(run: Path) -> Analysis:
    """Raises a UserError where the folder has no log, or one without a record."""
    images, records, notes = read_all(run)
    kept, lost = _finite(run, images, records, notes)
    ratios, compared = _ratios(kept)
    values, of = residuals(kept["timestep"], kept["loss"]), kept["image"]
    if by_base := compared >= FEWEST_COMPARED:
        values = against_base(values, kept["timestep"], ratios)
    overall = effects(values, of, len(images))
    third = _period(kept["step"], 3)
    parts = [effects(_some(values, third == i), of[third == i], len(images)) for i in (0, 2)]
    change = difference(parts[1], parts[0])
    far, lagging = outliers(overall), outliers(change)
    curves, ends = _curves(values, kept, len(images), by_base)
    by_measure, fit = _measured(run, images, notes)
    learnt = by_measure or _learnt(kept, ratios, len(images))
    misled = outliers(fit).high & (fit.mean > WIDTH * fit.error) if fit else np.zeros(len(images), bool)
    rows = [
        ImageRow(
            image.path,
            image.caption,
            image.digest,
            int(overall.count[i] + lost[i]),
            _ratio(overall, i),
            _ratio(change, i),
            _ratio(learnt, i) if learnt else None,
            _ratio(fit, i) if fit else None,
            round(float(far.distance[i]), 2),
            [*_reasons(i, overall, far, lagging, int(lost[i])), *([MISLED] if misled[i] else [])],
            [_plain(value) for value in curves[:, i]],
        )
        for i, image in enumerate(images)
    ]
    return Analysis(
        samples=len(records),
        steps=(int(kept["step"].min()), int(kept["step"].max())),
        ends=ends,
        change=_plain(math.exp(float(np.nanmedian(change.mean)))) if np.isfinite(change.mean).any() else None,
        limit=round(far.limit, 2) if math.isfinite(far.limit) else None,
        compared=compared,
        by_base=by_base,
        baseline=BASELINES[by_base].format(compared or "no"),
        measured=by_measure is not None,
        rows=sorted(rows, key=lambda row: _place(row, by_measure is not None)),
        tags=_tags([image.tags for image in images], overall, change, by_measure),
        notes=notes,
    )


def _finite(
    run: Path, images: list[LoggedImage], records: np.ndarray, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The records with a finite loss, and how many others each image has. Raises a UserError where there are none."""
    finite = np.isfinite(records["loss"]) & (records["loss"] > 0)
    if not finite.any():
        found = "has no log of losses: losses/*.log" if not len(records) else "has logged no finite loss"
        remedy = "give the folder of a run that was trained with callbacks.sample_losses.enabled=true"
        raise user_error(str(run), found, remedy)
    if (first := int(records["step"][finite].min())) > 1:
        notes.append(f"the log begins at step {first}: that of the run it resumed from was not found")
    return records[finite], np.bincount(records["image"][~finite], minlength=len(images))


def _ratios(records: np.ndarray) -> tuple[np.ndarray, int]:
    """Losses over the base model's (N,), NaN where that is not known; and of how many it is."""
    known = np.isfinite(records["base"]) & (records["base"] > 0)
    ratios = np.full(len(records), np.nan)
    ratios[known] = records["loss"][known] / records["base"][known]
    return ratios, int(known.sum())


def _learnt(records: np.ndarray, ratios: np.ndarray, images: int) -> Effects | None:
    """Of the second half of the run; None where it has too few samples to tell how much they scatter."""
    chosen = np.isfinite(ratios) & (_period(records["step"], 2) == 1)
    if chosen.sum() < max(FEWEST_FOR_LEARNT, 2 * images):
        return None
    return learnt_by_log(records["timestep"][chosen], ratios[chosen], records["image"][chosen], images)


def _place(row: ImageRow, measured: bool) -> tuple[bool, float]:
    """In the order of the rows: see Analysis."""
    learnt = row.learnt.value if row.learnt and measured else None
    return not row.reasons, -abs(row.distance) if row.reasons else -(row.distance if learnt is None else learnt)


def name_of(path: str) -> str:
    """An image's file name and its folder's."""
    return str(Path(*Path(path).parts[-2:]))


def _measured(run: Path, images: list[LoggedImage], notes: list[str]) -> tuple[Effects, Effects] | tuple[None, None]:
    """learnt and fit of the images, NaN for those that were not measured."""
    try:
        found = read_measured(run)
        keys = [_key(image, found) for image in images]
        rows = np.array([found[key] for key in keys if key])
        if rows.ndim != 3:  # (I, 2, K)
            return None, None
    except OutOfDate:
        notes.append(f"{FOLDER}/{FILE} is of an earlier adapter of this run; measure again")
        return None, None
    except (OSError, ValueError, KeyError, TypeError):
        notes.append(f"{FOLDER}/{FILE} is damaged; measure again")
        return None, None
    known = [i for i, key in enumerate(keys) if key]
    both = []
    for part in (measured(rows[:, 0]), measured(rows[:, 1])):
        mean, error = (np.full(len(images), np.nan) for _ in range(2))
        mean[known], error[known] = part.mean, part.error
        both.append(Effects(mean, error, np.full(len(images), rows.shape[2])))
    return both[0], both[1]


def _key(image: LoggedImage, found: Measured) -> tuple[str, str] | None:
    """Of what was measured of an image; by its content, where it was measured at another place."""
    keys = (image.path, image.caption), (image.digest, image.caption)
    return next((key for key in keys if key in found), None)


def _period(steps: np.ndarray, count: int) -> np.ndarray:
    """The number (N,) of the period that a record's step is in; periods have equally many steps."""
    first, last = int(steps.min()), int(steps.max())
    return ((steps.astype(np.int64) - first) * count) // (last - first + 1)


def _curves(values: Residuals, records: np.ndarray, images: int, by_base: bool) -> tuple[np.ndarray, list[int]]:
    """The loss (periods, images), and the last step of each period."""
    count = int(np.clip(len(records) // (images * SAMPLES_A_PERIOD), 1, PERIODS))
    period = _period(records["step"], count)
    means = [effects(_some(values, period == i), records["image"][period == i], images).mean for i in range(count)]
    ends = [int(records["step"][period == i].max(initial=0)) for i in range(count)]
    start = np.nanmedian(means[0]) if not by_base and np.isfinite(means[0]).any() else 0.0
    return np.exp(np.stack(means) - start), ends


def _some(values: Residuals, chosen: np.ndarray) -> Residuals:
    return Residuals(values.value[chosen], values.weight[chosen])


def _reasons(i: int, overall: Effects, far: Outliers, lagging: Outliers, lost: int) -> Iterator[str]:
    if lost:
        yield f"{lost} of {overall.count[i] + lost} losses are not finite"
    if far.high[i]:
        yield "much harder than the others: damaged, of another kind, or with a wrong caption"
    if far.low[i]:
        yield "much easier than the others: blank, or nearly so"
    if lagging.high[i]:
        yield "its loss falls less than that of the others: its caption may be wrong"


def _tags(tags: list[list[str]], overall: Effects, change: Effects, learnt: Effects | None) -> list[TagRow]:
    losses, changes, gains = (
        {tag.tag: tag for tag in (tag_effects(part, tags) if part else [])} for part in (overall, change, learnt)
    )
    rows = [
        TagRow(name, tag.images, _of_tag(tag), _of_tag(changes.get(name)), _of_tag(gains.get(name)) if learnt else None)
        for name, tag in losses.items()
    ]
    return sorted(rows, key=lambda row: -((row.learnt or row.loss).value or 0))


def _of_tag(tag: TagEffect | None) -> Ratio:
    return _factor(tag.mean, tag.error) if tag else Ratio(None, None, None)


def _ratio(found: Effects, i: int) -> Ratio:
    return _factor(float(found.mean[i]), float(found.error[i]))


def _factor(mean: float, error: float) -> Ratio:
    reach = WIDTH * error
    return Ratio(*(_plain(math.exp(value)) if value < 700 else None for value in (mean, mean - reach, mean + reach)))


def _plain(value: float) -> float | None:
    """For JSON, with four digits."""
    return float(f"{value:.4g}") if math.isfinite(value) else None
