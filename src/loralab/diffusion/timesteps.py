"""Which timesteps are trained.

A distribution is given by its quantile function: a draw is the quantile of a uniform number, and equal shares of the
distribution (for a validation curve without noise from the timesteps) are the quantiles of evenly spaced numbers. The
process takes the timestep that it has there (see process).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from loralab.errors import user_error
from loralab.rng import generator
from loralab.schema.ranges import Positive, Real, Timestep
from loralab.types import Draw


class Timesteps(Protocol):
    """A distribution of timesteps."""

    def quantile(self, share: Tensor) -> Tensor:
        """The times (N,) from 0 to 1000 below which `share` (N,) in [0, 1) of the distribution lies."""
        ...


class Uniform:
    """Every timestep from `low` to `high` − 1 alike; `low` alone where both are equal."""

    def __init__(self, low: Timestep = 0, high: Timestep = 1000) -> None:
        _check(low, high)
        self.low = low
        self.high = high

    def quantile(self, share: Tensor) -> Tensor:
        return _spread(share, self.low, self.high)


class LogitNormal:
    """Most often the middle: low + (high − low)·sigmoid(z), z ~ N(mean, std) (arXiv 2403.03206, 3.1).

    A mean above 0 shifts towards noisy timesteps, below 0 towards clean ones.
    """

    def __init__(self, mean: Real = 0.0, std: Positive = 1.0, low: Timestep = 0, high: Timestep = 1000) -> None:
        _check(low, high)
        self.mean = mean
        self.std = std
        self.low = low
        self.high = high

    def quantile(self, share: Tensor) -> Tensor:
        return _spread(torch.sigmoid(self.mean + self.std * torch.special.ndtri(share)), self.low, self.high)


def timesteps_for(distribution: Timesteps, draws: Sequence[Draw], seed: int) -> Tensor:
    """The times (B,) of samples, on the CPU."""
    share = [torch.rand((), generator=generator(seed, "timestep", *draw), dtype=torch.float64) for draw in draws]
    return distribution.quantile(torch.stack(share))


def _spread(share: Tensor, low: int, high: int) -> Tensor:
    return (low + share * (high - low)).clamp(max=max(low, math.nextafter(high, 0)))


def _check(low: int, high: int) -> None:
    if low > high or low > 999:
        raise user_error(
            "objective.timesteps",
            f"no timesteps between low={low} and high={high}",
            "set low to the first timestep (at most 999), high to the last plus one (at most 1000)",
        )
