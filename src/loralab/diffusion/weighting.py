"""Weights of a sample's loss by how noisy its timestep is.

Each is a factor, so several may be combined. The SNR is that of the schedule in use, with the zero-terminal fix where
it has one (sd-scripts keeps using the SNR from before the fix). Where a factor would grow without end, the SNR is
taken as no more than 1000 and no less than 1/1000.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Protocol

from loralab.schema.ranges import NonNegative, Positive

if TYPE_CHECKING:  # the check of settings reads this module without torch
    from collections.abc import Callable

    from torch import Tensor

    from loralab.diffusion.process import Process

BOUND = 1000.0


class Weighting(Protocol):
    """May have `predictions`: what a model must predict (Process.prediction) for it to have a meaning."""

    def __call__(self, snr: Tensor, process: Process) -> Tensor:
        """The factor (B,) at signal-to-noise ratios (B,)."""
        ...


class MinSNR:
    """Clean timesteps count less: the image's error is weighted by min(SNR, γ) (Hang et al. 2023, arXiv 2303.09556).

    That is min(SNR, γ)/SNR for the error of epsilon, /(SNR + 1) of v, /(√SNR + 1)² of a flow.
    """

    factors: ClassVar[dict[str, Callable[[Tensor, float], Tensor]]] = {
        "epsilon": lambda snr, gamma: (gamma / snr).clamp(max=1),  # the same ratio, defined at SNR 0
        "v_prediction": lambda snr, gamma: snr.clamp(max=gamma) / (snr + 1),
        "flow": lambda snr, gamma: snr.clamp(max=gamma) / (snr.sqrt() + 1) ** 2,
    }
    predictions = tuple(factors)

    def __init__(self, gamma: Positive = 5.0) -> None:
        self.gamma = gamma

    def __call__(self, snr: Tensor, process: Process) -> Tensor:
        return self.factors[process.prediction](snr, self.gamma)


class ScaledV:
    """Scales the loss of a v-prediction to that of the noise it stands for: SNR/(SNR + 1)."""

    predictions = ("v_prediction",)

    def __call__(self, snr: Tensor, process: Process) -> Tensor:
        snr = snr.clamp(max=BOUND)
        return snr / (snr + 1)


class VLike:
    """Adds a share of the loss that v-prediction would have: 1 + strength·(SNR + 1)/SNR."""

    predictions = ("epsilon",)

    def __init__(self, strength: NonNegative = 1.0) -> None:
        self.strength = strength

    def __call__(self, snr: Tensor, process: Process) -> Tensor:
        snr = snr.clamp(1 / BOUND, BOUND)
        return 1 + self.strength * (snr + 1) / snr


class Debiased:
    """Noisy timesteps count more: 1/√SNR, for v-prediction 1/(SNR + 1) (Yu et al. 2023, arXiv 2310.08442)."""

    factors: ClassVar[dict[str, Callable[[Tensor], Tensor]]] = {
        "epsilon": lambda snr: snr.clamp(1 / BOUND, BOUND).rsqrt(),
        "v_prediction": lambda snr: 1 / (snr.clamp(max=BOUND) + 1),
    }
    predictions = tuple(factors)

    def __call__(self, snr: Tensor, process: Process) -> Tensor:
        return self.factors[process.prediction](snr)


class SigmaSqrt:
    """Clean timesteps count more: 1/σ², at most about 1000 (diffusers' and sd-scripts' `sigma_sqrt`)."""

    predictions = ("flow",)

    def __call__(self, snr: Tensor, process: Process) -> Tensor:
        return (snr.clamp(max=BOUND).sqrt() + 1) ** 2


class Cosmap:
    """Middle timesteps count more, as under a cosine schedule: 2/(π·(1 − 2σ + 2σ²)) (Esser et al. 2024, 3.1)."""

    predictions = ("flow",)

    def __call__(self, snr: Tensor, process: Process) -> Tensor:
        sigma = 1 / (snr.sqrt() + 1)
        return 2 / (math.pi * (1 - 2 * sigma + 2 * sigma**2))
