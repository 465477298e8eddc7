"""The ways from an image to noise, and what a model is asked to predict on them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

STEPS = 1000


class Process(nn.Module, ABC):
    """A mixture of an image x and noise ε at each timestep from 0 (clean) to 1000: signal·x + sigma·ε.

    Timesteps (B,) are given on the device that the process is on, so that nothing waits for it.
    """

    prediction: ClassVar[str]
    """What the model predicts, as `model.prediction_type` spells it."""
    zero_terminal_snr = False
    """Whether the schedule was rescaled so that it ends in pure noise."""

    @abstractmethod
    def timesteps(self, times: Tensor) -> Tensor:
        """The timesteps (B,) that the process has at times (B,) from 0 to 1000."""

    @abstractmethod
    def signal(self, timesteps: Tensor) -> Tensor:
        """(B,) the factor of the image at timesteps (B,)."""

    @abstractmethod
    def sigma(self, timesteps: Tensor) -> Tensor:
        """(B,) the factor of the noise."""

    @abstractmethod
    def snr(self, timesteps: Tensor) -> Tensor:
        """(B,) the square of signal / sigma."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """(B, C, h, w) what a perfect model would predict."""

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """signal·latents + sigma·noise (B, C, h, w)."""
        return _over(self.signal(timesteps)) * latents + _over(self.sigma(timesteps)) * noise


class Diffusion(Process):
    """Stable Diffusion's noise at 1000 whole timesteps: signal = √ᾱ, sigma = √(1 − ᾱ).

    β runs from 0.00085 to 0.012, linear in its square root; ᾱ is the running product of 1 − β (Ho et al. 2020,
    arXiv 2006.11239, eq. 4). `zero_terminal_snr` rescales it so that the last timestep is pure noise (Lin et al. 2023,
    arXiv 2305.08891, algorithm 1).
    """

    alphas_cumprod: Tensor
    """ᾱ (1000,)"""

    def __init__(self, zero_terminal_snr: bool = False) -> None:
        super().__init__()
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, STEPS) ** 2
        signal = (1 - betas).cumprod(0).sqrt()
        if zero_terminal_snr:
            signal = (signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])
        self.zero_terminal_snr = zero_terminal_snr
        alphas = signal**2 if zero_terminal_snr else (1 - betas).cumprod(0)
        self.register_buffer("alphas_cumprod", alphas, persistent=False)

    def timesteps(self, times: Tensor) -> Tensor:
        return times.long()

    def signal(self, timesteps: Tensor) -> Tensor:
        return self.alphas_cumprod[timesteps].sqrt()

    def sigma(self, timesteps: Tensor) -> Tensor:
        return (1 - self.alphas_cumprod[timesteps]).sqrt()

    def snr(self, timesteps: Tensor) -> Tensor:
        alphas = self.alphas_cumprod[timesteps]
        return alphas / (1 - alphas)


class Epsilon(Diffusion):
    """The model predicts the noise (Ho et al. 2020, arXiv 2006.11239, eq. 14)."""

    prediction = "epsilon"

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise


class Velocity(Diffusion):
    """The model predicts √ᾱ·noise − √(1 − ᾱ)·latents (Salimans & Ho 2022, arXiv 2202.00512, appendix D)."""

    prediction = "v_prediction"

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return _over(self.signal(timesteps)) * noise - _over(self.sigma(timesteps)) * latents


class Flow(Process):
    """A straight line from image to noise: sigma = timestep / 1000, signal = 1 − sigma; the model predicts its
    direction, noise − latents (rectified flow: Liu et al. 2022, arXiv 2209.03003; Esser et al. 2024, arXiv 2403.03206).

    Timesteps are any numbers, not only whole ones.
    """

    prediction = "flow"

    def timesteps(self, times: Tensor) -> Tensor:
        return times.float()

    def signal(self, timesteps: Tensor) -> Tensor:
        return 1 - timesteps / STEPS

    def sigma(self, timesteps: Tensor) -> Tensor:
        return timesteps / STEPS

    def snr(self, timesteps: Tensor) -> Tensor:
        return (self.signal(timesteps) / self.sigma(timesteps)) ** 2

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise - latents


def process(prediction: str, zero_terminal_snr: bool = False) -> Process:
    """The process of a model by what it predicts; zero_terminal_snr: rescales the schedule of a diffusion."""
    if prediction == Flow.prediction:
        return Flow()
    return {kind.prediction: kind for kind in (Epsilon, Velocity)}[prediction](zero_terminal_snr)


def _over(values: Tensor) -> Tensor:
    """values (B,) as (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
