"""Blocks that are computed again: how many are chosen, what they keep, and that nothing of the result changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from loralab.models.checkpointing import checkpoint_gradients, outermost
from loralab.models.families.sd import load
from loralab.models.families.sdxl import miniature
from tests.support.runs import adapter, record

PROMPT = "a red star"


def kept_bytes(base: Path, blocks: bool | int) -> int:
    """Bytes of the activations that a forward pass of the UNet keeps for backward, each tensor once."""
    family = load(str(base), gradient_checkpointing=blocks)
    weights = {p.untyped_storage().data_ptr() for p in family.denoiser.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    conditioning = family.encode_text([PROMPT])
    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        family.predict(noisy, torch.tensor([10]), conditioning).sum()
    return sum(kept.values())


@pytest.mark.parametrize("make", [load, miniature])
def test_the_outermost_blocks_come_first(random_base: Path, make) -> None:
    """From the last of the way up and the first of the way down to the middle, each block once."""
    unet = make(str(random_base)).denoiser  # a base, or a tokenizer
    names = {module: name for name, module in unet.named_modules()}
    found = [names[module] for module in outermost(unet)]
    kinds = ("ResnetBlock2D", "BasicTransformerBlock")
    assert sorted(found) == sorted(name for module, name in names.items() if type(module).__name__ in kinds)
    last = len(unet.up_blocks) - 1
    assert found[0].startswith(f"up_blocks.{last}.")
    assert found[1].startswith("down_blocks.0.")
    assert found[-1].split(".")[0] in ("mid_block", "up_blocks.0")


def test_each_further_block_keeps_less(random_base: Path) -> None:
    family = load(str(random_base))
    every = len(outermost(family.denoiser))
    kept = [kept_bytes(random_base, blocks) for blocks in (False, 1, 4, every // 2, every)]
    assert kept == sorted(set(kept), reverse=True)
    assert kept_bytes(random_base, every + 10) == kept_bytes(random_base, True) == kept[-1]


@pytest.mark.parametrize("blocks", [3, True])
def test_only_the_chosen_blocks_are_computed_again(random_base: Path, blocks: bool | int) -> None:
    """Twice where they are chosen, once elsewhere; text encoders only with all."""
    family = load(str(random_base))
    order = outermost(family.denoiser)
    calls: list[torch.nn.Module] = []
    for module in order:
        module.register_forward_pre_hook(lambda module, _: calls.append(module))
    checkpoint_gradients(family.denoiser, family.text_encoders.values(), blocks)
    noisy = torch.zeros(1, 4, 16, 16).requires_grad_()
    family.predict(noisy, torch.tensor([10]), family.encode_text([PROMPT])).sum().backward()
    chosen, twice = order if blocks is True else order[:blocks], [m for m in order if calls.count(m) == 2]
    first_of_middle = [family.denoiser.mid_block.resnets[0]]  # diffusers computes it once even so
    assert twice == [module for module in chosen if module not in first_of_middle]
    assert all(encoder.training == (blocks is True) for encoder in family.text_encoders.values())


@pytest.mark.parametrize("options", [[], ["model=tiny_sdxl"], ["trainer.precision=bf16-mixed", "adapter=dora"]])
def test_the_result_is_the_same_to_the_last_bit(train, options: list[str]) -> None:
    """The loss and the file of a run, whose metadata alone tells of the setting."""
    common = [*options, "output.metadata=false", "adapter.rank_dropout=0.2"]
    plain = train(*common, name="plain")
    for blocks in ("1", "5", "true"):
        run = train(*common, f"model.gradient_checkpointing={blocks}", name=f"run{blocks}")
        assert adapter(run) == adapter(plain)
        assert record(run)["loss"] == record(plain)["loss"]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "some"])
def test_other_values_are_refused(train, capsys, value: str) -> None:
    train(f"model.gradient_checkpointing={value}", code=1)
    assert "model.gradient_checkpointing" in capsys.readouterr().err
