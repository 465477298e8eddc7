"""Concept sliders: the paper's formula, and an adapter that learns it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from loralab.diffusion.loss import L2
from loralab.diffusion.process import Epsilon, Flow, Velocity
from loralab.diffusion.slider import Slider
from loralab.diffusion.timesteps import Uniform
from tests.support.samples import LATENTS, batch


def answering(factor: float):
    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return factor * noisy + timesteps.view(-1, 1, 1, 1) / 1000

    return predict


@pytest.mark.parametrize("process", [Epsilon(), Velocity(), Flow()])
def test_the_formula(process) -> None:
    """With predictions that are multiples of the noisy latents, the goal is one, too: 0.5 + 3 (0.7 − 0.2) = 2."""
    slider = Slider({}, Uniform(), L2(), {}, "old", "young", "person", guidance=3.0)
    samples = batch([0, 1, 2], weight=torch.tensor([1.0, 0.0, 2.0]))
    asked: dict[str, list[str]] = {}

    def base(captions: list[str]):
        asked[captions[0]] = captions
        return answering({"person": 0.5, "old": 0.7, "young": 0.2}[captions[0]])

    further = slider.further(samples, base, base)
    assert asked == {prompt: [prompt] * 3 for prompt in ("person", "old", "young")}
    assert slider.captions(samples) == ["person"] * 3
    losses = slider(answering(1.0), LATENTS[:3], process, samples, 7, **further)
    times = losses.timesteps
    noisy = slider.noised(LATENTS[:3], process, samples, 7, times)[2]
    assert_close(losses.unweighted, noisy.square().mean((1, 2, 3)))  # (2 − 1)² · noisy²
    assert_close(losses.loss, losses.unweighted * torch.tensor([1.0, 0.0, 2.0]))
    assert_close(slider(answering(2.0), LATENTS[:3], process, samples, 7, **further).loss, torch.zeros(3))


def test_a_run(train, capsys) -> None:
    """It trains with texts that no image has, and the file is a plain adapter's; two equal ends are refused."""
    words = ["objective=slider", "objective.positive=large star", "objective.negative=small star", "targets=unet_only"]
    run = train(*words, "objective.target=star", "trainer.max_steps=2")
    facts = json.loads((run / "run.json").read_text())
    assert facts["status"] == "finished"
    moved = [t.abs().max() for key, t in load_file(run / "adapter.safetensors").items() if "lora_up" in key]
    assert min(moved) > 0
    train("objective=slider", name="no_ends", code=1)
    assert "the same as objective.negative" in capsys.readouterr().err
