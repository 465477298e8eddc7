"""Which timesteps are trained.

A distribution is given by its quantile function: a draw is the quantile of a uniform number, and equal shares of the
distribution (for a validation curve without noise from the timesteps) are the quantiles of evenly spaced numbers. The
process takes the timestep that it has there (see process).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from loralab.errors import user_error
from loralab.rng import generator
from loralab.schema.ranges import ModeScale, Pixels, Positive, Real, Timestep
from loralab.types import Batch


class Timesteps(Protocol):
    """A distribution of timesteps."""

    def quantile(self, share: Tensor, sizes: Tensor | None = None) -> Tensor:
        """The times (N,) from 0 to 1000 below which `share` (N,) in [0, 1) of the distribution lies.

        sizes: (N, 2) height and width of the images, pixels; None: those that make no difference.
        """
        ...


class Shifted(ABC):
    """Times from `low` to `high`, not included, that `shift` moves towards noise: u → shift·u/(1 + (shift − 1)·u).

    With `shift_side`, `shift` is that of square images with such sides, and grows with the square root of their pixels
    (arXiv 2403.03206, eq. 23).
    """

    def __init__(self, low: int, high: int, shift: float, shift_side: int | None) -> None:
        _check(low, high)
        self.low, self.high, self.shift, self.shift_side = low, high, shift, shift_side

    @abstractmethod
    def unshifted(self, share: Tensor) -> Tensor:
        """The quantiles (N,) in [0, 1] of shares (N,) without a shift."""

    def quantile(self, share: Tensor, sizes: Tensor | None = None) -> Tensor:
        shift: Tensor | float = self.shift
        if self.shift_side is not None and sizes is not None:
            shift = shift * sizes.to(share).prod(1).sqrt() / self.shift_side
        return _spread(shifted(self.unshifted(share), shift), self.low, self.high)


class Uniform(Shifted):
    """Every timestep from `low` to `high` − 1 alike; `low` alone where both are equal."""

    def __init__(
        self, low: Timestep = 0, high: Timestep = 1000, shift: Positive = 1.0, shift_side: Pixels | None = None
    ) -> None:
        super().__init__(low, high, shift, shift_side)

    def unshifted(self, share: Tensor) -> Tensor:
        return share


class LogitNormal(Shifted):
    """Most often the middle: low + (high − low)·sigmoid(z), z ~ N(mean, std) (arXiv 2403.03206, eq. 19).

    A mean above 0 shifts towards noisy timesteps, below 0 towards clean ones.
    """

    def __init__(
        self,
        mean: Real = 0.0,
        std: Positive = 1.0,
        low: Timestep = 0,
        high: Timestep = 1000,
        shift: Positive = 1.0,
        shift_side: Pixels | None = None,
    ) -> None:
        super().__init__(low, high, shift, shift_side)
        self.mean, self.std = mean, std

    def unshifted(self, share: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(share))


class Mode(Shifted):
    """Most often the middle (scale above 0) or the ends (below 0): 1 − u − scale·(cos²(πu/2) − 1 + u) of a uniform u
    (arXiv 2403.03206, eq. 20)."""

    def __init__(
        self,
        scale: ModeScale = 1.29,
        low: Timestep = 0,
        high: Timestep = 1000,
        shift: Positive = 1.0,
        shift_side: Pixels | None = None,
    ) -> None:
        super().__init__(low, high, shift, shift_side)
        self.scale = scale

    def unshifted(self, share: Tensor) -> Tensor:
        u = 1 - share  # the formula falls with u
        return (1 - u - self.scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)).clamp(0, 1)


def shifted(times: Tensor, shift: Tensor | float) -> Tensor:
    """Times in [0, 1] moved towards 1 where the shift is above 1."""
    return shift * times / (1 + (shift - 1) * times)


def timesteps_for(distribution: Timesteps, batch: Batch, seed: int) -> Tensor:
    """The times (B,) of samples, on the CPU."""
    share = [torch.rand((), generator=generator(seed, "timestep", *draw), dtype=torch.float64) for draw in batch.draws]
    return distribution.quantile(torch.stack(share), batch.target_size)


def _spread(share: Tensor, low: int, high: int) -> Tensor:
    return (low + share * (high - low)).clamp(max=max(low, math.nextafter(high, 0)))


def _check(low: int, high: int) -> None:
    if low > high or low > 999:
        raise user_error(
            "objective.timesteps",
            f"no timesteps between low={low} and high={high}",
            "set low to the first timestep (at most 999), high to the last plus one (at most 1000)",
        )
