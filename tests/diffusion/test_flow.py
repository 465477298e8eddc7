"""Timesteps and weights of flows: equal to diffusers' and to closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3
from torch.testing import assert_close

from loralab.diffusion.process import Flow
from loralab.diffusion.timesteps import LogitNormal, Mode, Shifted, Uniform
from loralab.diffusion.weighting import Cosmap, SigmaSqrt

SHARES = (torch.arange(999, dtype=torch.float64) + 1) / 1000


def test_noise_and_target_are_those_of_diffusers() -> None:
    """scale_noise at every sigma of a shifted schedule; a step along the target to the end is the image."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(7)
    latents, noise = torch.randn(2, 7, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    times = scheduler.timesteps
    noisy = Flow().add_noise(latents, noise, times)
    assert_close(noisy, scheduler.scale_noise(latents, times, noise))
    target = Flow().target(latents, noise, times)
    for i, time in enumerate(times):
        scheduler.set_timesteps(7)
        stepped = scheduler.step(target[i], time, noisy[i]).prev_sample
        after = scheduler.sigmas[i + 1]
        assert_close(stepped, (1 - after) * latents[i] + after * noise[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.5, 6.0])
def test_shifted_uniform_times_are_the_sigmas_that_diffusers_samples_at(shift: float) -> None:
    sigmas = FlowMatchEulerDiscreteScheduler(shift=shift).sigmas.flip(0)[:999]
    assert_close(Uniform(shift=shift).quantile(SHARES).float() / 1000, sigmas)


def test_a_shift_by_resolution_grows_with_the_side() -> None:
    """√(m/n) of images of n and m pixels (arXiv 2403.03206, eq. 23), whatever their shape."""
    sizes = torch.tensor([[1024, 1024], [2048, 2048], [512, 2048], [512, 512]])
    share = torch.full((4,), 0.5, dtype=torch.float64)
    found = Uniform(shift=3.0, shift_side=1024).quantile(share, sizes)
    assert_close(found, torch.tensor([750.0, 6000 / 7, 750.0, 600.0], dtype=torch.float64))
    assert_close(Uniform(shift=3.0).quantile(share, sizes), found[:1].expand(4))


@pytest.mark.parametrize("scale", [-1.0, 0.0, 0.8, 1.29, 1.75])
def test_mode_times_are_those_of_diffusers(scale: float) -> None:
    """Its draws have our quantiles; its scripts turn them round, which leaves the distribution the same."""
    torch.manual_seed(0)
    drawn = compute_density_for_timestep_sampling("mode", 200_000, mode_scale=scale).double()
    ours = Mode(scale).quantile(SHARES) / 1000
    assert_close(ours, torch.quantile(drawn, SHARES), rtol=0, atol=0.008)
    assert_close(1 - ours.flip(0), ours)


def test_a_sigmoid_of_normal_numbers_is_a_logit_normal_time() -> None:
    torch.manual_seed(0)
    drawn = torch.sigmoid(1.7 * torch.randn(200_000, dtype=torch.float64))
    assert_close(LogitNormal(0.0, 1.7).quantile(SHARES) / 1000, torch.quantile(drawn, SHARES), rtol=0, atol=0.008)
    shifted = 3 * drawn / (1 + 2 * drawn)
    ours = LogitNormal(0.0, 1.7, shift=3.0).quantile(SHARES) / 1000
    assert_close(ours, torch.quantile(shifted, SHARES), rtol=0, atol=0.008)


@pytest.mark.parametrize("times", [Uniform(200, 700, 4.0), LogitNormal(0.5, 2.0, 200, 700, 0.3), Mode(1.75, 200, 700)])
def test_shifted_times_stay_in_their_range(times: Shifted) -> None:
    found = times.quantile(torch.linspace(0, 1, 10_001, dtype=torch.float64))
    assert 200 == found.min().item() < 699.9 < found.max().item() < 700
    assert (found.diff() >= 0).all()


@pytest.mark.parametrize(("scheme", "weighting"), [("sigma_sqrt", SigmaSqrt()), ("cosmap", Cosmap())])
def test_weights_are_those_of_diffusers(scheme: str, weighting: SigmaSqrt | Cosmap) -> None:
    flow, times = Flow(), torch.linspace(40, 999, 200)
    assert_close(weighting(flow.snr(times), flow), compute_loss_weighting_for_sd3(scheme, times / 1000))
    assert weighting(flow.snr(torch.tensor([0.0, 1000.0])), flow).isfinite().all()


def test_cosmap_has_a_mean_of_one() -> None:
    """The integral of 2/(π(1 − 2σ + 2σ²)) over [0, 1] is 1: arctan(2σ − 1)·2/π."""
    times = (torch.arange(100_000) + 0.5) / 100
    weights = Cosmap()(Flow().snr(times), Flow())
    assert_close(weights.mean(), torch.tensor(1.0))
    assert_close(weights.max(), torch.tensor(4 / math.pi))
