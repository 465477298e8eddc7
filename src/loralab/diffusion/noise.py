"""The noise that is added to latents, and ways of changing it.

Random numbers are drawn per sample on the CPU (`draw`), so that a sample's noise does not depend on the batch it is in;
they are put together for the whole batch on its device (`apply`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import interpolate

from loralab.rng import generator
from loralab.schema.ranges import Bands, NonNegative, Real, Share
from loralab.types import Draw

Shape = Sequence[int]


DIFFUSION = ("epsilon", "v_prediction")
"""For a flow, whose pictures start from plain noise alone, training on another kind would only be a mismatch."""


class Noise(Protocol):
    """A change of plain Gaussian noise. May have `predictions`: what a model must predict for it to have a meaning."""

    in_target: bool
    """Whether the model is asked to predict the change too."""

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        """The random numbers of one sample of shape (C, h, w)."""
        ...

    def apply(self, noise: Tensor, latents: Tensor, drawn: Tensor) -> Tensor:
        """The changed noise (B, C, h, w); `drawn` (B, …) stacks what `draw` gave for each sample."""
        ...


class Offset:
    """Shifts each channel by a random constant, so that very dark and bright pictures can be learned.

    noise + s·n, n ~ N(0, 1) per sample and channel (crosslabs.org/blog/diffusion-with-offset-noise).
    `adaptive` makes s follow the picture: s = max(0, strength + adaptive·|mean of the channel|).
    `random_strength` draws the strength of each sample from 0 … strength.
    """

    in_target = True
    predictions = DIFFUSION

    def __init__(self, strength: NonNegative = 0.1, adaptive: Real = 0.0, random_strength: bool = False) -> None:
        self.strength = strength
        self.adaptive = adaptive
        self.random_strength = random_strength

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        direction = torch.randn(shape[0], 1, 1, generator=generator)
        strength = _strength(self.strength, self.random_strength, generator)
        return torch.stack([direction, strength.expand_as(direction)])  # (2, C, 1, 1)

    def apply(self, noise: Tensor, latents: Tensor, drawn: Tensor) -> Tensor:
        direction, strength = drawn.unbind(1)
        if self.adaptive:
            strength = (strength + self.adaptive * latents.mean((2, 3), keepdim=True).abs()).clamp(min=0)
        return noise + strength * direction


class Multires:
    """Adds coarser noise of several resolutions ("pyramid noise"), scaled back to a standard deviation of 1.

    The standard deviation is each sample's own: what else is in the batch makes no difference.
    """

    in_target = True
    predictions = DIFFUSION

    def __init__(self, iterations: Bands = 6, discount: Share = 0.3) -> None:
        self.iterations = iterations
        self.discount = discount

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        ratios = 2 + 2 * torch.rand(self.iterations, generator=generator)
        return pyramid(shape, ratios.tolist(), self.discount, generator)

    def apply(self, noise: Tensor, latents: Tensor, drawn: Tensor) -> Tensor:
        noise = noise + drawn
        return noise / noise.std((1, 2, 3), keepdim=True)


def pyramid(shape: Shape, ratios: Sequence[float], discount: float, generator: Generator) -> Tensor:
    """Coarse noise of shape (C, h, w): level i has 1/ratios[i]**i of the resolution and weighs discount**i.

    It ends after the first level that is one cell wide or high.
    """
    channels, height, width = shape
    total = torch.zeros(1, channels, height, width)
    for level, ratio in enumerate(ratios):
        size = max(1, int(height / ratio**level)), max(1, int(width / ratio**level))
        coarse = torch.randn(1, channels, *size, generator=generator)
        total += interpolate(coarse, (height, width), mode="bilinear") * discount**level
        if 1 in size:
            break
    return total[0]


class InputPerturbation:
    """Adds slightly more noise to the model's input than its timestep says, against exposure bias when sampling.

    noise + γ·n for the input, the target stays (Ning et al. 2023, arXiv 2301.11706).
    """

    in_target = False

    def __init__(self, strength: NonNegative = 0.1, random_strength: bool = False) -> None:
        self.strength = strength
        self.random_strength = random_strength

    def draw(self, shape: Shape, generator: Generator) -> Tensor:
        return torch.randn(*shape, generator=generator) * _strength(self.strength, self.random_strength, generator)

    def apply(self, noise: Tensor, latents: Tensor, drawn: Tensor) -> Tensor:
        return noise + drawn


def _strength(strength: float, is_random: bool, generator: Generator) -> Tensor:
    """The strength of one sample (1, 1, 1): fixed, or uniform in 0 … strength."""
    factor = torch.rand(1, 1, 1, generator=generator) if is_random else torch.ones(1, 1, 1)
    return strength * factor


def normal(seed: int, purpose: str, draws: Sequence[Draw], shape: Shape, device: torch.device) -> Tensor:
    """Standard normal numbers (B, *shape), each sample's a function of (seed, purpose, epoch, index) alone."""
    samples = [torch.randn(*shape, generator=generator(seed, purpose, *draw)) for draw in draws]
    return to_device(torch.stack(samples), device)


def noise_for(changes: Sequence[Noise], latents: Tensor, draws: Sequence[Draw], seed: int) -> tuple[Tensor, Tensor]:
    """(noise the model is asked for, noise its input gets), both (B, C, h, w), for latents (B, C, h, w)."""
    shape = latents.shape[1:]
    generators = [generator(seed, "noise", *draw) for draw in draws]
    plain = torch.stack([torch.randn(*shape, generator=each) for each in generators])
    drawn = [torch.stack([change.draw(shape, each) for each in generators]) for change in changes]

    device = latents.device
    pairs = [(change, to_device(numbers, device)) for change, numbers in zip(changes, drawn, strict=True)]
    target = to_device(plain, device)
    for change, numbers in pairs:
        if change.in_target:
            target = change.apply(target, latents, numbers)
    given = target
    for change, numbers in pairs:
        if not change.in_target:
            given = change.apply(given, latents, numbers)
    return target, given


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Moves without waiting for the device: from pinned memory where it is an accelerator."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
