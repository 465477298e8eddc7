"""Stable Diffusion's noise schedule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEPS = 1000


class NoiseSchedule(nn.Module):
    """How much of an image and how much noise there is at each of 1000 timesteps.

    β runs from 0.00085 to 0.012, linear in its square root; ᾱ is the running product of 1 − β (Ho et al. 2020,
    arXiv 2006.11239, eq. 4). `zero_terminal_snr` rescales it so that the last timestep is pure noise (Lin et al. 2023,
    arXiv 2305.08891, algorithm 1). Its table moves with the model, so that nothing waits
    for a device: timesteps are given on the device that the schedule is on.
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

    def signal(self, timesteps: Tensor) -> Tensor:
        """√ᾱ (B,), the share of the image at timesteps (B,)."""
        return self.alphas_cumprod[timesteps].sqrt()

    def sigma(self, timesteps: Tensor) -> Tensor:
        """√(1 − ᾱ) (B,), the share of the noise."""
        return (1 - self.alphas_cumprod[timesteps]).sqrt()

    def snr(self, timesteps: Tensor) -> Tensor:
        """ᾱ / (1 − ᾱ) (B,); 0 at the last timestep of a zero-terminal schedule."""
        alphas = self.alphas_cumprod[timesteps]
        return alphas / (1 - alphas)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·latents + √(1 − ᾱ)·noise (B, C, h, w)."""
        return _over(self.signal(timesteps)) * latents + _over(self.sigma(timesteps)) * noise

    def velocity(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """√ᾱ·noise − √(1 − ᾱ)·latents (B, C, h, w), the target of v-prediction (arXiv 2202.00512, appendix D)."""
        return _over(self.signal(timesteps)) * noise - _over(self.sigma(timesteps)) * latents


def _over(values: Tensor) -> Tensor:
    """values (B,) as (B, 1, 1, 1)."""
    return values.view(-1, 1, 1, 1)
