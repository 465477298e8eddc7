"""The objective: independent of the batch, equal to written-out formulas, every option of the group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor
from torch.testing import assert_close

from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.diffusion.loss import L2
from loralab.diffusion.noise import InputPerturbation, Multires, Offset
from loralab.diffusion.objective import Losses, Objective
from loralab.diffusion.process import Epsilon, Flow, Process, Velocity
from loralab.diffusion.tag_rarity import TagRarity, Tags
from loralab.diffusion.timesteps import LogitNormal, Uniform
from loralab.diffusion.weighting import Debiased, MinSNR, ScaledV, VLike
from loralab.errors import UserError
from loralab.rng import generator
from loralab.training.ema import EMA
from loralab.training.module import LoraModule
from loralab.training.run_state import RunState
from loralab.types import Item
from tests import ROOT
from tests.support.samples import LATENTS, batch

CONF = ROOT / "conf"
EPSILON, VELOCITY = Epsilon(), Velocity()
SAMPLES = list(range(12))  # enough to have clean timesteps among them


def objective(
    noise: dict[str, Any] | None = None, weighting: dict[str, Any] | None = None, **settings: Any
) -> Objective:
    return Objective(noise or {}, settings.pop("timesteps", Uniform()), L2(), weighting or {}, **settings)


def half(noisy: Tensor, timesteps: Tensor) -> Tensor:
    """A prediction that depends on both inputs, sample by sample."""
    return 0.5 * noisy + timesteps.view(-1, 1, 1, 1) / 1000


def run(
    of: Objective, indices: list[int], predict=half, process: Process = EPSILON, seed: int = 7, **fields: Any
) -> Losses:
    return of(predict, LATENTS[indices], process, batch(indices, **fields), seed)


EVERYTHING = objective(
    {"offset": Offset(0.1, 0.05, True), "multires": Multires(), "input_perturbation": InputPerturbation(0.1, True)},
    {"min_snr": MinSNR(), "v_like": VLike(), "debiased": Debiased()},
)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    together = run(EVERYTHING, [0, 1, 2, 3])
    for indices in ([2], [3, 1], [1, 0, 3]):
        apart = run(EVERYTHING, indices)
        assert torch.equal(apart.timesteps, together.timesteps[indices])
        assert_close(apart.loss, together.loss[indices], rtol=1e-6, atol=0)


def test_draws_are_a_function_of_seed_epoch_and_index() -> None:
    state = torch.get_rng_state()
    first, again, other = run(EVERYTHING, [0, 1]), run(EVERYTHING, [0, 1]), run(EVERYTHING, [0, 1], seed=8)
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.loss, other.loss)
    assert torch.equal(state, torch.get_rng_state()), "the global generator is the network's"


def plain_noise(indices: list[int]) -> Tensor:
    return torch.stack([torch.randn(4, 8, 6, generator=generator(7, "noise", 2, i)) for i in indices])


def test_epsilon_loss_is_the_mean_square_of_the_error() -> None:
    indices, noise = [0, 1, 2], plain_noise([0, 1, 2])
    found = run(objective(), indices)
    alphas = EPSILON.alphas_cumprod[found.timesteps].view(-1, 1, 1, 1)
    noisy = alphas.sqrt() * LATENTS[indices] + (1 - alphas).sqrt() * noise
    expected = ((half(noisy, found.timesteps) - noise) ** 2).mean((1, 2, 3))
    assert_close(found.loss, expected, rtol=1e-6, atol=0)
    assert torch.equal(found.loss, found.unweighted)


def test_a_perfect_velocity_has_no_loss() -> None:
    indices, noise = [0, 3], plain_noise([0, 3])

    def perfect(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return VELOCITY.target(LATENTS[indices], noise, timesteps)

    assert run(objective(), indices, perfect, VELOCITY).loss.abs().max() < 1e-12
    assert run(objective(), indices, perfect, EPSILON).loss.min() > 0.1


def test_input_perturbation_is_not_in_the_target() -> None:
    seen = []

    def zero(noisy: Tensor, timesteps: Tensor) -> Tensor:
        seen.append(noisy)
        return torch.zeros_like(noisy)

    plain, perturbed = run(objective(), [0], zero), run(objective({"p": InputPerturbation(0.3)}), [0], zero)
    assert torch.equal(plain.loss, perturbed.loss)
    moved = (seen[1] - seen[0]) / EPSILON.sigma(plain.timesteps)
    assert moved.std().item() == pytest.approx(0.3, rel=0.2)


def test_factors_multiply_in_sd_scripts_order() -> None:
    mask = torch.rand(3, 1, 64, 48)
    fields = {"mask": mask, "weight": torch.tensor([1.0, 2.0, 3.0]), "is_reg": torch.tensor([False, True, False])}
    weighting = {"min_snr": MinSNR(5), "v_like": VLike(0.5), "debiased": Debiased()}
    found = run(objective(weighting=weighting, prior_loss_weight=0.3), [0, 1, 2], **fields)

    plain = run(objective(), [0, 1, 2], mask=mask).loss
    snr = EPSILON.snr(found.timesteps)
    loss = plain * torch.tensor([1.0, 2.0 * 0.3, 3.0])
    loss = loss * snr.clamp(max=5) / snr
    loss = loss + loss / (snr / (snr + 1)) * 0.5
    loss = loss / snr.sqrt()
    assert_close(found.loss, loss, rtol=1e-5, atol=0)
    assert torch.equal(found.unweighted, plain)


def test_a_flow_is_learned_along_straight_lines() -> None:
    """x = (1 − σ)·image + σ·noise, asked for noise − image at σ·1000, whole or not (arXiv 2403.03206, eq. 1 and 13)."""
    indices, noise, seen = [0, 1, 2], plain_noise([0, 1, 2]), []

    def perfect(noisy: Tensor, timesteps: Tensor) -> Tensor:
        seen.extend((noisy, timesteps))
        return noise - LATENTS[indices]

    found = run(objective(timesteps=LogitNormal()), indices, perfect, Flow())
    sigma = seen[1].view(-1, 1, 1, 1) / 1000
    assert_close(seen[0], (1 - sigma) * LATENTS[indices] + sigma * noise)
    assert (seen[1] % 1).all(), "timesteps are not rounded"
    assert torch.equal(found.loss, torch.zeros(3))


def test_min_snr_weighs_the_error_of_the_image_whatever_is_predicted() -> None:
    """min(SNR, γ) × the squared error of the image that follows from a prediction (arXiv 2303.09556, eq. 5)."""
    for process in (Epsilon(), Velocity(), Flow()):
        found = run(objective(weighting={"min_snr": MinSNR(5)}), SAMPLES, process=process)
        times = found.timesteps
        signal, sigma = (of(times).view(-1, 1, 1, 1) for of in (process.signal, process.sigma))
        noisy = process.add_noise(LATENTS, plain_noise(SAMPLES), times)
        predicted = half(noisy, times)
        image = {
            "epsilon": (noisy - sigma * predicted) / signal,
            "v_prediction": signal * noisy - sigma * predicted,
            "flow": noisy - sigma * predicted,
        }[process.prediction]
        expected = process.snr(times).clamp(max=5) * ((image - LATENTS) ** 2).mean((1, 2, 3))
        assert_close(found.loss, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "process"),
    [
        ({"weighting": {"scaled_v": ScaledV()}}, EPSILON),
        ({"weighting": {"v_like": VLike()}}, VELOCITY),
        ({"weighting": {"debiased": Debiased()}}, Flow()),
        ({"noise": {"offset": Offset()}}, Flow()),
        ({"noise": {"multires": Multires()}}, Flow()),
    ],
)
def test_options_without_a_meaning_are_refused(options: dict[str, Any], process: Process) -> None:
    [(group, named)] = options.items()
    with pytest.raises(UserError, match=rf"objective\.{group}\.{next(iter(named))}: needs a model that predicts"):
        objective(**options).check(process)
    EVERYTHING.check(EPSILON)


def test_scaled_v() -> None:
    found = run(objective(weighting={"scaled_v": ScaledV()}), [0, 1], process=VELOCITY)
    alphas = EPSILON.alphas_cumprod[found.timesteps]
    assert_close(found.loss, found.unweighted * alphas, rtol=1e-5, atol=0)  # SNR/(SNR + 1) = ᾱ


def test_weights_follow_the_zero_terminal_schedule() -> None:
    of = objective(weighting={"min_snr": MinSNR(5)}, timesteps=Uniform(999, 1000))
    found = of(half, LATENTS[:1], Velocity(zero_terminal_snr=True), batch([0]), 7)
    assert found.loss.item() == 0  # SNR 0, not the 0.0047 of the schedule before the fix


def test_given_timesteps_take_the_place_of_drawn_ones() -> None:
    given = torch.tensor([5, 995])
    found = objective()(half, LATENTS[:2], EPSILON, batch([0, 1]), 7, timesteps=given)
    assert torch.equal(found.timesteps, given)


def test_gradients_flow_through_the_loss_only() -> None:
    scale = torch.tensor(0.5, requires_grad=True)
    found = run(EVERYTHING, [0, 1], lambda noisy, _: noisy * scale)
    found.loss.mean().backward()
    assert scale.grad is not None
    assert scale.grad != 0
    assert not found.unweighted.requires_grad


def test_preservation_adds_the_distance_to_the_base() -> None:
    of = objective(preservation_weight=0.25)
    plain = run(objective(), [0, 1])
    scale = torch.tensor(0.5, requires_grad=True)

    def base(noisy: Tensor, _: Tensor) -> Tensor:
        return noisy * scale

    def call(**predictions: Any) -> Losses:
        return of(half, LATENTS[:2], EPSILON, batch([0, 1]), 7, **predictions)

    own = call(predict_base=base)
    assert_close(own.loss, plain.loss + 0.25 * (plain.timesteps / 1000) ** 2, rtol=1e-5, atol=0)
    assert not own.loss.requires_grad, "the base is not trained"
    prior = call(predict_base=base, predict_prior=lambda noisy, _: base(noisy, _) + 2)
    assert_close(prior.loss, plain.loss + 0.25 * 4, rtol=1e-5, atol=0)
    assert prior.loss.requires_grad


def test_rare_tags_weigh_more() -> None:
    counts = {"star": 20, "red": 15, "blue": 5}
    full, half_way, off = (TagRarity(counts, power) for power in (1, 0.5, 0))
    assert full.weight(["blue"]) / full.weight(["red"]) == pytest.approx(3)
    assert half_way.weight(["blue"]) / half_way.weight(["red"]) == pytest.approx(3**0.5)
    assert off.weight(["star", "blue"]) == off.weight(["unheard of"]) == full.weight([]) == 1
    assert full.weight(["star", "red"]) == pytest.approx((full.weights["star"] + full.weights["red"]) / 2)
    assert sum(n * full.weights[tag] for tag, n in counts.items()) == pytest.approx(40)


def test_tag_weighting_scales_each_samples_loss() -> None:
    items = [Item("a.png", 64, 48, "star, red"), Item("b.png", 64, 48, "star, blue")]
    untold = objective(tag_weighting=1.0)
    assert torch.equal(run(untold, [0, 1], items=items).loss, run(objective(), [0, 1]).loss), "no tags are counted"
    tags = Tags({"star": 20, "red": 15, "blue": 5}, lambda item: item.caption.split(", "))
    of = objective(tag_weighting=1.0, tags=tags)
    expected = torch.tensor([of.rarity.weight(["star", tag]) for tag in ("red", "blue")])
    found = run(of, [0, 1], items=items)
    assert_close(found.loss, found.unweighted * expected, rtol=1e-6, atol=0)


def options(group: str) -> list[str]:
    return [f"objective/{group}={file.stem}" for file in sorted((CONF / "objective" / group).glob("*.yaml"))]


@pytest.mark.parametrize(
    "override",
    [
        *(option for group in ("noise", "timesteps", "loss", "weighting") for option in options(group)),
        "objective/noise=[offset,multires,input_perturbation]",
        "objective/weighting=[min_snr,debiased]",
    ],
)
def test_every_option_composes_and_changes_the_loss(override: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        given = ["+objective=default", "+suggested.shift=1.0"]
        chosen = instantiate(compose(overrides=[*given, override]).objective)
        default = instantiate(compose(overrides=given).objective)
    needs = {"scaled_v": VELOCITY, "cosmap": Flow(), "sigma_sqrt": Flow()}
    process = needs.get(override.partition("=")[2], EPSILON)
    found, plain = run(chosen, SAMPLES, process=process).loss, run(default, SAMPLES, process=process).loss
    is_default = override.partition("=")[2] in ("plain", "uniform", "l2", "none")
    assert found.isfinite().all()
    assert torch.equal(found, plain) == is_default


def test_the_module_stays_near_its_own_base(random_family) -> None:
    """Added to each sample's loss: the square of what the adapters change of the prediction for the empty caption."""
    adapters = inject(random_family, LoRA(rank=2), Targets())
    try:
        for tensor in adapters.parameters():
            torch.nn.init.normal_(tensor, std=0.3, generator=torch.Generator().manual_seed(0))
        sizes, mean = torch.full((2, 2), 64), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
        given = replace(
            batch([0, 1]), captions=["star", "sks"], latent_mean=mean, latent_std=0 * mean, original_size=sizes
        )
        modules = [
            LoraModule(random_family, adapters, of, None, None, 1.0, 3, EMA(), RunState(Path(), {}))  # type: ignore[arg-type]
            for of in (objective(), objective(preservation_weight=0.25))
        ]
        plain, near = (module.losses(given, seed=3) for module in modules)
        latents = random_family.vae.config.scaling_factor * mean
        noise = torch.stack([torch.randn(4, 8, 8, generator=generator(3, "noise", 2, i)) for i in (0, 1)])
        noisy = EPSILON.add_noise(latents, noise, plain.timesteps)
        empty = modules[0].predictor(given, ["", ""])(noisy, plain.timesteps)
        with adapters.enabled(False):
            base = modules[0].predictor(given, ["", ""])(noisy, plain.timesteps)
    finally:
        adapters.remove()
    change = ((empty - base) ** 2).mean((1, 2, 3))
    assert (change > 1e-4).all()
    assert_close(near.loss, plain.loss + 0.25 * change, rtol=1e-4, atol=0)
    assert_close(near.unweighted, plain.unweighted, rtol=1e-5, atol=0)
