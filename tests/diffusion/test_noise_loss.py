"""Noise schedule, noise, timesteps, losses and weightings against sd-scripts' numbers, diffusers and closed forms."""

from __future__ import annotations

import json
import random

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch.testing import assert_close

from loralab.diffusion.loss import L1, L2, Huber, SmoothL1, threshold
from loralab.diffusion.noise import InputPerturbation, Multires, Offset, pyramid
from loralab.diffusion.objective import masked_mean
from loralab.diffusion.process import Epsilon, Flow, Process, Velocity
from loralab.diffusion.timesteps import LogitNormal, Uniform
from loralab.diffusion.weighting import Debiased, MinSNR, ScaledV, VLike
from loralab.errors import UserError
from tests import GOLDEN

REFERENCE = json.loads((GOLDEN / "noise_loss.json").read_text())


def close(actual: torch.Tensor, expected: list) -> None:
    assert_close(actual, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_schedule_is_stable_diffusions() -> None:
    golden, schedule = REFERENCE["scheduler"], Velocity()
    timesteps = torch.tensor(golden["timesteps"])
    close(schedule.alphas_cumprod[timesteps], golden["alphas_cumprod"])
    close(schedule.snr(timesteps), golden["all_snr"])


def test_zero_terminal_snr() -> None:
    schedule = Velocity(zero_terminal_snr=True)
    assert schedule.alphas_cumprod.sum().item() == pytest.approx(REFERENCE["zero_terminal_snr"]["acp_sum"], rel=1e-6)
    assert schedule.snr(torch.tensor([999])).item() == 0
    oracle = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear", rescale_betas_zero_snr=True)
    assert_close(schedule.alphas_cumprod, oracle.alphas_cumprod, rtol=1e-4, atol=1e-6)
    latents, noise = torch.randn(2, 1, 4, 2, 2)
    last = torch.tensor([999])
    assert torch.equal(schedule.add_noise(latents, noise, last), noise)
    assert torch.equal(schedule.target(latents, noise, last), -latents)


def test_noising_and_velocity() -> None:
    golden, schedule = REFERENCE["add_noise"], Velocity()
    latents, noise, timesteps = (torch.tensor(golden[k]) for k in ("x0", "noise", "t"))
    close(schedule.add_noise(latents, noise, timesteps), golden["noisy"])
    close(schedule.target(latents, noise, timesteps), golden["velocity"])


def test_a_flow_runs_along_diffusers_sigmas() -> None:
    oracle, flow = FlowMatchEulerDiscreteScheduler(), Flow()
    latents, noise = torch.randn(2, 1000, 4, 2, 2)
    close(flow.sigma(oracle.timesteps), oracle.sigmas.tolist())
    assert_close(flow.add_noise(latents, noise, oracle.timesteps), oracle.scale_noise(latents, oracle.timesteps, noise))
    ends = torch.tensor([0.0, 1000.0])
    assert flow.snr(ends).tolist() == [float("inf"), 0]
    assert MinSNR()(flow.snr(ends), flow).tolist() == [0, 0]


def test_offset() -> None:
    golden = REFERENCE["noise_offset"]
    latents, noise, direction = (torch.tensor(golden[k]) for k in ("latents", "noise", "randn_b_c_1_1"))
    drawn = torch.stack([direction, torch.full_like(direction, 0.1)], dim=1)
    close(Offset(0.1).apply(noise, latents, drawn), golden["out_0.1"])
    close(Offset(0.1, adaptive=0.05).apply(noise, latents, drawn), golden["out_0.1_adaptive_0.05"])
    # an adaptive strength that would be negative is none
    assert torch.equal(Offset(0.1, adaptive=-1e6).apply(noise, latents, drawn), noise)


def test_random_strengths_are_uniform_up_to_the_strength() -> None:
    generator = torch.Generator().manual_seed(0)
    strengths = torch.stack([Offset(0.4, random_strength=True).draw((4, 2, 2), generator)[1] for _ in range(500)])
    assert (strengths == strengths[:, :1]).all(), "one strength a sample, whatever the channel"
    assert 0.37 < strengths.max() <= 0.4
    assert strengths.mean().item() == pytest.approx(0.2, abs=0.015)
    spread = torch.stack([InputPerturbation(0.4, True).draw((4, 8, 8), generator).std() for _ in range(300)])
    assert spread.mean().item() == pytest.approx(0.2, abs=0.02)


def test_multires() -> None:
    golden = REFERENCE["pyramid_noise"]
    noise = torch.tensor(golden["noise_in"])  # (1, C, h, w)
    rng = random.Random(5)
    ratios = [rng.random() * 2 + 2 for _ in range(golden["iterations"])]
    drawn = pyramid(noise.shape[1:], ratios, golden["discount"], torch.Generator().manual_seed(5))
    close(Multires(golden["iterations"], golden["discount"]).apply(noise, noise, drawn[None]), golden["out"])


def test_multires_of_narrow_latents_ends_at_one_cell() -> None:
    noise = Multires(iterations=10).draw((4, 2, 40), torch.Generator().manual_seed(0))
    assert noise.shape == (4, 2, 40)
    assert noise.isfinite().all()


@pytest.mark.parametrize("case", REFERENCE["huber"]["cases"], ids=lambda c: "{loss_type}-{huber_schedule}".format(**c))
def test_losses(case: dict) -> None:
    golden, schedule = REFERENCE["huber"], Velocity()
    prediction, target, timesteps = (torch.tensor(golden[k]) for k in ("pred", "target", "timesteps"))
    settings = case["huber_c"], case["huber_schedule"], case["huber_scale"]
    loss = L2() if case["loss_type"] == "l2" else Huber(*settings)
    found = loss(prediction, target, timesteps, schedule)
    close(found.mean((1, 2, 3)), case["loss_per_sample_mean"])
    close(found.flatten()[:4], case["loss_none_first4"])
    if case["threshold"]:
        c = threshold(timesteps, schedule, *settings)
        close(c, case["threshold"])
        # smooth L1 is the same curve without the factor c
        smooth = SmoothL1(*settings)(prediction, target, timesteps, schedule)
        assert_close(smooth * c.view(-1, 1, 1, 1), found, rtol=1e-6, atol=1e-6)


def test_l1_is_the_limit_of_smooth_l1() -> None:
    a, b, t = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([3, 900])
    assert_close(SmoothL1(1e-6, "constant")(a, b, t, Velocity()), 2 * L1()(a, b, t, Velocity()))


def test_huber_threshold_at_zero_snr() -> None:
    assert threshold(torch.tensor([999]), Velocity(True), 0.1, "snr", 1.0).item() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("weighting", "process", "expected"),
    [
        (MinSNR(5), Epsilon(), "min_snr_eps_gamma5"),
        (MinSNR(5), Velocity(), "min_snr_v_gamma5"),
        (ScaledV(), Velocity(), "scale_v_pred_loss_like_noise_pred"),
        (VLike(1.0), Epsilon(), "add_v_prediction_like_loss_1.0"),
        (Debiased(), Epsilon(), "debiased_eps"),
    ],
)
def test_weightings(weighting, process: Process, expected: str) -> None:
    golden = REFERENCE["snr"]
    snr = process.snr(torch.tensor(golden["timesteps"]))
    close(torch.tensor(golden["loss_in"]) * weighting(snr, process), golden[expected])


def test_debiased_v_is_one_over_snr_plus_one_and_the_snr_at_most_1000() -> None:
    close(Debiased()(torch.tensor([0.0, 1.0, 1e6]), Velocity()), [1.0, 0.5, 1 / 1001])


@pytest.mark.parametrize("weighting", [MinSNR(), ScaledV(), VLike(), Debiased()])
def test_weights_are_finite_at_zero_snr(weighting) -> None:
    assert weighting(torch.tensor([0.0]), Epsilon()).isfinite().all()


def test_masked_loss() -> None:
    golden = REFERENCE["masked_loss"]
    loss, mask, expected = (torch.tensor(golden[k]) for k in ("loss", "mask", "out"))
    close(masked_mean(loss, mask[:, None]), expected.mean((1, 2, 3)).tolist())


def test_mask_is_averaged_down_and_not_divided_by_its_sum() -> None:
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., :8, :4] = 1  # half of the first of four latent cells
    assert masked_mean(torch.full((1, 4, 2, 2), 8.0), mask).item() == pytest.approx(8 * 0.5 / 4)


@pytest.mark.parametrize("timesteps", [Uniform(200, 700), LogitNormal(1.0, 2.0, 200, 700)])
def test_timesteps_stay_in_their_range(timesteps) -> None:
    found = timesteps.quantile(torch.linspace(0, 1, 10_001, dtype=torch.float64))
    assert 200 == found.min().item() < 699.9 < found.max().item() < 700
    assert (found.diff() >= 0).all()
    assert Epsilon().timesteps(found).max() == 699


def test_uniform_timesteps_are_equally_many() -> None:
    shares = torch.rand(100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = Epsilon().timesteps(Uniform(10, 20).quantile(shares))
    assert_close(found.bincount()[10:].float(), torch.full((10,), 10_000.0), rtol=0.04, atol=0)
    assert Uniform(500, 500).quantile(torch.tensor([0.0, 0.9])).tolist() == [500, 500]


def test_logit_normal_timesteps() -> None:
    generator = torch.Generator().manual_seed(0)
    expected = 1000 * torch.sigmoid(0.5 + 1.5 * torch.randn(200_000, generator=generator))
    found = LogitNormal(0.5, 1.5).quantile(torch.rand(200_000, dtype=torch.float64, generator=generator)).float()
    shares = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])
    assert_close(found.quantile(shares), expected.quantile(shares), rtol=0, atol=6)


@pytest.mark.parametrize(("low", "high"), [(600, 500), (1000, 1000)])
def test_an_empty_range_of_timesteps_is_refused(low: int, high: int) -> None:
    with pytest.raises(UserError, match=r"objective\.timesteps"):
        Uniform(low, high)
