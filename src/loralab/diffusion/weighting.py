"""Weights of a sample's loss by how noisy its timestep is.

Each is a factor, so several may be combined. The SNR is that of the schedule in use, with the zero-terminal fix where
it has one (sd-scripts keeps using the SNR from before the fix). Where a factor would grow without end, the SNR is
taken as no more than 1000 and no less than 1/1000.
"""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

from loralab.errors import user_error
from loralab.schema.ranges import NonNegative, Positive

PredictionType = Literal["epsilon", "v_prediction"]

BOUND = 1000.0


class Weighting(Protocol):
    def __call__(self, snr: Tensor, prediction_type: PredictionType) -> Tensor:
        """The factor (B,) at signal-to-noise ratios (B,)."""
        ...


class MinSNR:
    """Clean timesteps count less: min(SNR, γ)/SNR, for v-prediction /(SNR + 1) (Hang et al. 2023, arXiv 2303.09556)."""

    def __init__(self, gamma: Positive = 5.0) -> None:
        self.gamma = gamma

    def __call__(self, snr: Tensor, prediction_type: PredictionType) -> Tensor:
        if prediction_type == "v_prediction":
            return snr.clamp(max=self.gamma) / (snr + 1)
        return (self.gamma / snr).clamp(max=1)  # the same ratio, defined at SNR 0


class ScaledV:
    """Scales the loss of a v-prediction to that of the noise it stands for: SNR/(SNR + 1)."""

    def __call__(self, snr: Tensor, prediction_type: PredictionType) -> Tensor:
        if prediction_type != "v_prediction":
            raise user_error(
                "objective.weighting", "scaled_v needs v-prediction, but the model predicts epsilon", "remove it"
            )
        snr = snr.clamp(max=BOUND)
        return snr / (snr + 1)


class VLike:
    """Adds a share of the loss that v-prediction would have: 1 + strength·(SNR + 1)/SNR."""

    def __init__(self, strength: NonNegative = 1.0) -> None:
        self.strength = strength

    def __call__(self, snr: Tensor, prediction_type: PredictionType) -> Tensor:
        if prediction_type != "epsilon":
            raise user_error(
                "objective.weighting", "v_like needs epsilon prediction, but the model predicts v", "remove it"
            )
        snr = snr.clamp(1 / BOUND, BOUND)
        return 1 + self.strength * (snr + 1) / snr


class Debiased:
    """Noisy timesteps count more: 1/√SNR, for v-prediction 1/(SNR + 1) (Yu et al. 2023, arXiv 2310.08442)."""

    def __call__(self, snr: Tensor, prediction_type: PredictionType) -> Tensor:
        if prediction_type == "v_prediction":
            return 1 / (snr.clamp(max=BOUND) + 1)
        return snr.clamp(1 / BOUND, BOUND).rsqrt()
