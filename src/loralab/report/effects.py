"""What per-sample losses say of images and tags, and how sure that is. Arrays only.

Losses differ far more by timestep than by image, and by factors: everything is computed in logarithms. The residual of
a record is r = log(loss) − b(timestep), where b is the median of all records of the run at about that timestep, or, as
far as the base model was asked (`against_base`), its usual loss there. The effect of an image is the mean of
its residuals, each weighted by 1/σ(timestep), the spread of residuals there; so exp(effect) is its loss as a multiple
of what is usual at the same timesteps.

Its standard error follows from the scatter of residuals within images, pooled over all: with few samples an image, the
errors are wide and the ranking is mostly noise, which the intervals show. Images also differ in difficulty, for good
reasons; `outliers` asks which of them differ by more than both explain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

SAMPLES_A_BIN = 20
MOST_BINS = 40
MOST_BINS_OF_RATIOS = 10
FEWEST = 8
"""Images, below which none is called an outlier."""
TAIL = 0.15
"""The spread of images is taken from their quantiles at TAIL and 1 − TAIL, which so many outliers cannot change."""
RATE = 0.05
"""The chance of any false alarm in a run whose images differ in difficulty as a normal distribution."""
SIMULATED = 2000


@dataclass(frozen=True, slots=True)
class Effects:
    """Of each image (or what else is numbered), in logarithms; NaN for those without records."""

    mean: np.ndarray
    error: np.ndarray
    """The standard error."""
    count: np.ndarray
    """Records."""


@dataclass(frozen=True, slots=True)
class Residuals:
    """Of each record."""

    value: np.ndarray
    weight: np.ndarray


def residuals(timesteps: np.ndarray, losses: np.ndarray) -> Residuals:
    """log(loss) − b(timestep), and 1/σ(timestep); b and σ are medians of bins of equally many records, in between and
    beyond linear, σ as 1.4826 × the median absolute deviation."""
    values, bins = np.log(losses), _bins(timesteps, MOST_BINS)
    centres, usual = _medians(bins, timesteps), _medians(bins, values)
    found = values - _line(timesteps, centres, usual)
    spreads = [1.4826 * np.median(np.abs(found[rows] - np.median(found[rows]))) for rows in bins]
    typical = float(np.median(spreads)) or 1.0
    return Residuals(found, 1 / np.interp(timesteps, centres, np.maximum(spreads, typical / 10)))


def against_base(found: Residuals, timesteps: np.ndarray, ratios: np.ndarray) -> Residuals:
    """The residuals of log(loss) against the base model's usual loss in the place of the run's.

    ratios (N,): each loss over the base model's for the same noise, NaN where that is not known; from all of the run.
    Their median at about a timestep is how far the two usual losses are apart there. It takes few ratios to know it, as
    they scatter far less than losses do.
    """
    known = np.isfinite(ratios)
    bins = _bins(timesteps[known], MOST_BINS_OF_RATIOS)
    apart = _line(timesteps, _medians(bins, timesteps[known]), _medians(bins, np.log(ratios[known])))
    return Residuals(found.value + apart, found.weight)


def learnt_by_log(timesteps: np.ndarray, ratios: np.ndarray, images: np.ndarray, number: int) -> Effects:
    """Of images 0 … number − 1, from losses over the base model's for the same noise (N,): the mean of all records, and
    how far the image's own lie from what is usual at their timesteps."""
    found = residuals(timesteps, ratios)
    common = np.average(np.log(ratios) - found.value, weights=found.weight)
    return effects(Residuals(found.value + common, found.weight), images, number)


def _bins(timesteps: np.ndarray, most: int) -> list[np.ndarray]:
    """The records by timestep, about equally many in each bin."""
    order = np.argsort(timesteps, kind="stable")
    return np.array_split(order, int(np.clip(len(order) // SAMPLES_A_BIN, 1, most)))


def _medians(bins: list[np.ndarray], values: np.ndarray) -> np.ndarray:
    return np.array([np.median(values[rows]) for rows in bins], float)


def _line(at: np.ndarray, centres: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values at centres, in between linear, beyond on the line through the outer two."""
    centres, first = np.unique(centres, return_index=True)
    values = values[first]
    line = np.interp(at, centres, values)
    if len(centres) > 1:
        slopes = np.diff(values) / np.diff(centres)
        line += np.minimum(at - centres[0], 0) * slopes[0] + np.maximum(at - centres[-1], 0) * slopes[-1]
    return line


def effects(found: Residuals, images: np.ndarray, number: int) -> Effects:
    """Of images 0 … number − 1; images: that of each record."""
    weight, count = (np.bincount(images, w, number) for w in (found.weight, None))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.bincount(images, found.weight * found.value, number) / weight
        scatter = found.weight * (found.value - mean[images])  # of one size at all timesteps
        freedom = max(1, len(images) - np.count_nonzero(count))
        error = np.sqrt((scatter**2).sum() / freedom * count) / weight
    return Effects(mean, error, count.astype(int))


def difference(one: Effects, other: Effects) -> Effects:
    """Of two disjoint sets of records, `one` − `other`."""
    return Effects(one.mean - other.mean, np.hypot(one.error, other.error), one.count + other.count)


def measured(values: np.ndarray) -> Effects:
    """Of images that were all measured at the same timesteps (I, K): the mean of each row.

    The error is that of its difference from other images: the scatter of a row around what its columns have in common,
    its own or that of all rows, whichever is larger.
    """
    rows, columns = values.shape
    mean = values.mean(1)
    rest = values - np.median(values, 0)
    scatter = ((rest - rest.mean(1, keepdims=True)) ** 2).sum(1) / max(1, columns - 1)
    return Effects(mean, np.sqrt(np.maximum(scatter, scatter.mean()) / columns), np.full(rows, columns))


@dataclass(frozen=True, slots=True)
class Outliers:
    """Which images differ from the others by more than chance and their usual differences explain."""

    distance: np.ndarray
    """From the median, over √(spread between images² + standard error²)."""
    limit: float
    """A distance beyond it is an outlier; infinite with fewer than FEWEST images."""

    @property
    def high(self) -> np.ndarray:
        return self.distance > self.limit

    @property
    def low(self) -> np.ndarray:
        return self.distance < -self.limit


def outliers(found: Effects) -> Outliers:
    """The limit is the distance that the farthest of as many images exceeds in RATE of simulated runs without
    outliers, so that it counts all images and how roughly few of them tell the spread."""
    known = np.isfinite(found.mean) & np.isfinite(found.error)
    number = int(known.sum())
    if number < FEWEST:
        return Outliers(np.zeros(len(found.mean)), np.inf)
    centre, spread = _centre_and_spread(found.mean[known][None])
    between = max(0.0, float(spread[0]) ** 2 - float(np.median(found.error[known] ** 2)))
    expected = np.sqrt(between + found.error**2)
    distance = np.where(known & (expected > 0), (found.mean - centre[0]) / np.where(expected > 0, expected, 1), 0.0)
    return Outliers(distance, _limit(number))


def _centre_and_spread(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The median and the spread (R,) of rows (R, N): a robust standard deviation."""
    low, centre, high = np.quantile(rows, (TAIL, 0.5, 1 - TAIL), axis=1)
    return centre, (high - low) / (2 * NormalDist().inv_cdf(1 - TAIL))


@cache
def _limit(number: int) -> float:
    if number > 1000:  # their spread is known well
        return NormalDist().inv_cdf(1 - RATE / (2 * number))
    rows = np.random.default_rng(0).standard_normal((SIMULATED, number))
    centre, spread = _centre_and_spread(rows)
    farthest = (np.abs(rows - centre[:, None]) / spread[:, None]).max(1)
    return float(np.quantile(farthest, 1 - RATE))


@dataclass(frozen=True, slots=True)
class TagEffect:
    """How much the images with a tag differ from those without, shrunk towards zero, in logarithms."""

    tag: str
    images: int
    mean: float
    error: float


def tag_effects(found: Effects, tags: Sequence[Sequence[str]]) -> list[TagEffect]:
    """Of tags that at least two images have and at least two do not, the highest first; tags: of each image.

    The raw difference d of the mean effects of images has the error s = σ·√(1/with + 1/without), σ being the spread of
    images. Differences of tags are taken as normal around 0 with an unknown standard deviation τ, so that d is shrunk
    to d·τ²/(τ² + s²), the more the rarer the tag; averaged over τ, which is as likely anywhere before the data are
    seen (Gelman 2006, Bayesian Analysis 1:515, for hierarchical models). Tags that occur together share their effects.
    """
    known = np.flatnonzero(np.isfinite(found.mean))
    having: dict[str, list[int]] = {}
    for image in map(int, known):
        for tag in dict.fromkeys(tags[image]):
            having.setdefault(tag, []).append(image)
    names = [tag for tag, images in having.items() if 2 <= len(images) <= len(known) - 2]
    if not names:
        return []
    values, sigma = found.mean[known], float(_centre_and_spread(found.mean[known][None])[1][0])
    counts = np.array([len(having[tag]) for tag in names])
    sums = np.array([found.mean[having[tag]].sum() for tag in names])
    raw = sums / counts - (values.sum() - sums) / (len(known) - counts)
    error = np.maximum(sigma * np.sqrt(1 / counts + 1 / (len(known) - counts)), 1e-9)
    means, errors = _shrunk(raw, error)
    rows = zip(names, counts.tolist(), means.tolist(), errors.tolist(), strict=True)
    return sorted((TagEffect(*row) for row in rows), key=lambda tag: -tag.mean)


def _shrunk(raw: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means and standard deviations (T,) of differences, see tag_effects."""
    tau = np.linspace(0, 3 * float(np.abs(raw).max()) + 1e-9, 200)[:, None]
    total = tau**2 + error**2  # (200, T)
    fit = (-0.5 * (np.log(total) + raw**2 / total)).sum(1)
    weight = np.exp(fit - fit.max())
    weight /= weight.sum()
    share = tau**2 / total
    mean = weight @ (share * raw)
    square = weight @ (share * error**2 + (share * raw) ** 2)
    return mean, np.sqrt(np.maximum(square - mean**2, 0))
