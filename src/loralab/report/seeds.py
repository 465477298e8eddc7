"""Runs that differ by their seed only: their mean and spread, and how sure a difference between two such groups is."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SEED = "seed"
NOT_COUNTED = (
    *("output.", "logger.", "run.", "report.", "allow", "resume", "reuse"),
    *("data.cache_folder", "data.cache.folder", "data.cache.share"),
)
"""Settings that say where a run writes and what it is called."""
RESAMPLES = 10_000
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Student's t at 97.5 %, for 2 to 10 pairs."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The mean difference of two groups over the seeds that both have, with a 95 % confidence interval."""

    pairs: int
    mean: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        return not self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Standing:
    """How a group of runs stands among others by a metric."""

    values: Mapping[Any, float]
    """By seed; empty where none of its runs has the metric."""
    mean: float | None
    spread: float | None
    """The standard deviation between seeds; None for a single one."""
    is_best: bool
    comparison: Comparison | None
    """With the best group; None for that itself, and for groups that share fewer than two seeds with it."""

    def verdict(self, best: str) -> str:
        """In words; best: "lowest" or "highest", whichever is better."""
        if self.is_best:
            return f"the {best}"
        if self.comparison is None:
            return f"fewer than two seeds in common with the {best}" if self.values else "no result"
        found = self.comparison
        words = f"{found.mean:+.4f} (95 %: {found.low:.4f} to {found.high:.4f})"
        return words if found.distinguishable else f"{words}, not distinguishable from the {best}"


def standings(groups: Sequence[Mapping[Any, float]], highest: bool = False) -> list[Standing]:
    """Of groups of runs, each by its values of a metric by seed; highest: whether a high value is better."""
    means = [mean_and_spread([*values.values()]) if values else (None, None) for values in groups]
    known = [(mean, i) for i, (mean, _) in enumerate(means) if mean is not None]
    _, best = (max if highest else min)(known, key=lambda pair: pair[0], default=(None, None))
    return [
        Standing(
            values,
            *means[i],
            is_best=i == best,
            comparison=compared(values, groups[best]) if best is not None and i != best else None,
        )
        for i, values in enumerate(groups)
    ]


def counts(key: str) -> bool:
    """Whether a setting can make two runs differ, besides the seed."""
    return key != SEED and not key.startswith(NOT_COUNTED)


def groups(settings: Sequence[Mapping[str, Any]]) -> list[int]:
    """The number of the group of each run: those whose settings are equal but for their seed have the same."""
    numbers: dict[str, int] = {}
    keys = [{k: v for k, v in each.items() if counts(k)} for each in settings]
    return [numbers.setdefault(json.dumps(key, sort_keys=True, default=str), len(numbers)) for key in keys]


def mean_and_spread(values: Sequence[float]) -> tuple[float, float | None]:
    """The mean, and the standard deviation between seeds; None for a single one."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def compared(one: Mapping[Any, float], other: Mapping[Any, float]) -> Comparison | None:
    """How far `one` lies above `other`, both a value by seed; None if they share fewer than two seeds."""
    differences = [one[seed] - other[seed] for seed in one if seed in other]
    return interval(differences) if len(differences) > 1 else None


def interval(differences: Sequence[float]) -> Comparison:
    """The mean of paired differences (N,), N ≥ 2, with its percentile bootstrap interval.

    Efron & Tibshirani, An Introduction to the Bootstrap (1993), 13.3. Of few pairs a bootstrap is too sure: up to ten,
    the interval is at least as wide as Student's t makes it.
    """
    pairs = np.asarray(differences, dtype=float)
    means = np.random.default_rng(0).choice(pairs, (RESAMPLES, len(pairs))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    if len(pairs) <= len(STUDENT) + 1:
        reach = STUDENT[len(pairs) - 2] * pairs.std(ddof=1) / np.sqrt(len(pairs))
        low, high = min(low, pairs.mean() - reach), max(high, pairs.mean() + reach)
    return Comparison(len(pairs), float(pairs.mean()), float(low), float(high))
