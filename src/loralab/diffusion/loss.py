"""The distance between a prediction and its target, element by element."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from loralab.diffusion.process import STEPS, Process
from loralab.schema.ranges import NonNegative, Positive

Growth = Literal["constant", "exponential", "snr"]


class Loss(Protocol):
    def __call__(self, prediction: Tensor, target: Tensor, timesteps: Tensor, process: Process) -> Tensor:
        """The loss (B, C, h, w) of predictions (B, C, h, w) at timesteps (B,)."""
        ...


class L2:
    """The square of the difference."""

    def __call__(self, prediction: Tensor, target: Tensor, timesteps: Tensor, process: Process) -> Tensor:
        return (prediction - target) ** 2


class L1:
    """The absolute difference."""

    def __call__(self, prediction: Tensor, target: Tensor, timesteps: Tensor, process: Process) -> Tensor:
        return (prediction - target).abs()


class Huber:
    """Like L2 below a threshold c, like L1 above it (pseudo-Huber): 2c·(√(d² + c²) − c).

    `c`, `schedule`, `scale`: see `threshold`.
    """

    def __init__(self, c: Positive = 0.1, schedule: Growth = "snr", scale: NonNegative = 1.0) -> None:
        self.c = c
        self.schedule: Growth = schedule
        self.scale = scale

    def __call__(self, prediction: Tensor, target: Tensor, timesteps: Tensor, process: Process) -> Tensor:
        c = threshold(timesteps, process, self.c, self.schedule, self.scale).view(-1, 1, 1, 1)
        return 2 * c * (((prediction - target) ** 2 + c**2).sqrt() - c)


class SmoothL1:
    """Like L1 with a rounded bottom as wide as the threshold c: 2·(√(d² + c²) − c).

    `c`, `schedule`, `scale`: see `threshold`.
    """

    def __init__(self, c: Positive = 0.1, schedule: Growth = "snr", scale: NonNegative = 1.0) -> None:
        self.c = c
        self.schedule: Growth = schedule
        self.scale = scale

    def __call__(self, prediction: Tensor, target: Tensor, timesteps: Tensor, process: Process) -> Tensor:
        c = threshold(timesteps, process, self.c, self.schedule, self.scale).view(-1, 1, 1, 1)
        return 2 * (((prediction - target) ** 2 + c**2).sqrt() - c)


def threshold(timesteps: Tensor, process: Process, c: float, growth: Growth, scale: float) -> Tensor:
    """The threshold (B,) at timesteps (B,).

    constant: c·scale. exponential: c**(t/1000)·scale, from `scale` where clean to c·scale where noisy.
    snr: (1 − c)/(1 + s)² + c with s = sigma/signal, from 1 to c, whatever the scale.
    """
    if growth == "constant":
        return torch.full_like(timesteps, c * scale, dtype=torch.float32)
    if growth == "exponential":
        return c ** (timesteps / STEPS) * scale
    signal, sigma = process.signal(timesteps), process.sigma(timesteps)
    return (1 - c) * (signal / (signal + sigma)) ** 2 + c  # 1/(1 + s) without dividing by a signal of 0
