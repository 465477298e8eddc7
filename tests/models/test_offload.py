"""Weights that wait on the CPU: the same numbers to the last bit, from storages that are empty most of the time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from loralab.adapters.inject import inject
from loralab.adapters.kinds import METHODS
from loralab.adapters.targets import Targets
from loralab.models import offload
from loralab.models.checkpointing import blocks_of, checkpoint_gradients
from loralab.models.families import anima, sdxl, zimage
from loralab.models.offload import Offload, chosen, waiting
from tests import ROOT
from tests.support.refusals import problems
from tests.support.runs import record

TINY = str(ROOT / "src" / "loralab" / "assets" / "tiny")
FAMILIES = {"sdxl": lambda: sdxl.miniature(TINY), "zimage": zimage.miniature, "anima": anima.miniature}


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of miniatures are."""
    monkeypatch.setattr(offload, "SMALL", 32)


def trained(
    make: Any, amount: float, checkpointing: bool | int = False, kind: str = "LoRA"
) -> tuple[Any, list[Tensor]]:
    """The model after three steps, with the losses and its adapters. Weights wait, though the device is a CPU."""
    family = make()
    if checkpointing:
        checkpoint_gradients(family.denoiser, (), checkpointing)
    if amount:
        Offload(chosen(family.denoiser, amount), devices=("cpu",))
    (method,) = [method for method in METHODS if method.__name__ == kind]
    adapters = inject(family, method(rank=4), Targets(text_encoder=False))
    nn.Module.to(family.denoiser, "cpu")
    optimizer = torch.optim.SGD([p for p in adapters.parameters() if p.requires_grad], lr=1.0)
    draw, losses = torch.Generator().manual_seed(0), []
    for _ in range(3):
        noisy = torch.randn(2, *family.latent_shape(64, 64), generator=draw)
        prediction = family.predict(noisy, torch.tensor([10, 500]), family.encode_text(["a star", "b"]))
        loss = (prediction - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return family, [*losses, *(p.detach() for p in adapters.parameters())]


@pytest.mark.parametrize(
    ("family", "amount", "checkpointing", "kind"),
    [
        ("sdxl", 3, False, "LoRA"),
        ("sdxl", 1.0, False, "DoRA"),
        ("sdxl", 0.5, True, "LoKr"),
        ("sdxl", 1.0, 2, "LoRA"),
        ("zimage", 1.0, True, "LoRA"),
        ("zimage", 0.5, False, "LoRA"),
        ("anima", 1.0, True, "LoRA"),
        ("anima", 0.5, False, "LoRA"),
    ],
)
def test_the_same_to_the_last_bit(family: str, amount: float, checkpointing: bool | int, kind: str) -> None:
    _, plain = trained(FAMILIES[family], 0, checkpointing, kind)
    model, found = trained(FAMILIES[family], amount, checkpointing, kind)
    for one, other in zip(found, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    blocks = chosen(model.denoiser, amount)
    there = [block for block in blocks if all(p.untyped_storage().nbytes() for p in waiting(block))]
    away = [block for block in blocks if not any(p.untyped_storage().nbytes() for p in waiting(block))]
    assert len(there) <= 2, "the one that was computed last, and the next"
    assert len(there) + len(away) == len(blocks)
    assert sum(p.nbytes for block in away for p in waiting(block)) >= offload.saved(model.denoiser, amount)


def test_the_weights_come_back() -> None:
    """Where the model leaves the device, all are where they were, as they were."""
    devices = ["cpu"]
    denoiser = sdxl.miniature(TINY).denoiser
    before = {name: tensor.clone() for name, tensor in denoiser.state_dict().items()}
    Offload(chosen(denoiser, 1.0), devices)
    nn.Module.to(denoiser, "cpu")
    assert not any(p.untyped_storage().nbytes() for block in blocks_of(denoiser) for p in waiting(block))
    devices.clear()
    nn.Module.to(denoiser, "cpu")
    for name, tensor in denoiser.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_how_many_and_which() -> None:
    denoiser = sdxl.miniature(TINY).denoiser
    every = blocks_of(denoiser)
    assert chosen(denoiser, 1.0) == chosen(denoiser, 1000) == every
    assert len(chosen(denoiser, 1)) == 1
    half = [every.index(block) for block in chosen(denoiser, 0.5)]
    assert len(half) == -(-len(every) // 2)
    assert {after - before for before, after in pairwise(half)} <= {1, 2}


def test_what_it_cannot_be_combined_with() -> None:
    assert not problems("model.offload=4")
    assert "model.offload: cannot be combined with model.quantize=nf4" in problems(
        "model.offload=4", "model.quantize=nf4"
    )
    assert "several devices" in problems("model.offload=0.5", "trainer.devices=2", "trainer.accelerator=cpu")
    assert "model.offload: invalid value" in problems("model.offload=-1")


@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_a_run_on_a_gpu(train, checkpointing: str) -> None:
    """The same file, from less memory."""
    given = ["trainer=gpu", "trainer.accelerator=gpu", "trainer.deterministic=true", "output.metadata=false"]
    given += [f"model.gradient_checkpointing={checkpointing}"]
    plain, waits = (train(*given, f"model.offload={amount}", name=f"run{amount}") for amount in ("0", "1.0"))
    assert (plain / "adapter.safetensors").read_bytes() == (waits / "adapter.safetensors").read_bytes()
    assert record(waits)["peak_memory_gb"] <= record(plain)["peak_memory_gb"]
