"""Linear layers with their LoRAs as one function: what these compute apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loralab.adapters import lora
from loralab.adapters.inject import inject
from loralab.adapters.kinds import METHODS
from loralab.adapters.product import Adapted, adapted_products
from loralab.adapters.targets import Targets
from loralab.models.families.sd.attention import together
from loralab.models.families.sdxl import miniature
from tests import ROOT

WIDTHS, RANKS, INSIDE = (4, 5, 7), (3, 2, 4), 6


def given(dtype: torch.dtype, count: int, scale: float, has_bias: bool = True) -> tuple[Tensor, list[Adapted]]:
    draw = torch.Generator().manual_seed(0)

    def numbers(*shape: int, grad: bool = True) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_(grad)

    layers = []
    for width, rank in list(zip(WIDTHS, RANKS, strict=True))[:count]:
        bias = numbers(width, grad=False) if has_bias else None
        layers.append(
            Adapted(numbers(width, INSIDE, grad=False), bias, numbers(rank, INSIDE), numbers(width, rank), scale)
        )
    return numbers(2, 5, INSIDE), layers


def apart(x: Tensor, layer: Adapted) -> Tensor:
    return F.linear(x, layer.weight, layer.bias) + F.linear(F.linear(x, layer.down) * layer.scale, layer.up)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("has_bias", [True, False])
def test_its_gradients_are_those_of_finite_differences(count: int, scale: float, has_bias: bool) -> None:
    x, layers = given(torch.float64, count, scale, has_bias)

    def products(x: Tensor, *trained: Tensor) -> tuple[Tensor, ...]:
        downs, ups = trained[::2], trained[1::2]
        pairs = zip(layers, downs, ups, strict=True)
        return adapted_products(x, [layer._replace(down=down, up=up) for layer, down, up in pairs])

    trained = [tensor for layer in layers for tensor in (layer.down, layer.up)]
    assert torch.autograd.gradcheck(products, (x, *trained))
    for ours, layer in zip(products(x, *trained), layers, strict=True):
        torch.testing.assert_close(ours, apart(x, layer))


@pytest.mark.parametrize("count", [1, 3])
def test_in_half_precision_they_are_no_further_from_the_truth_than_layer_and_adapter_apart(count: int) -> None:
    x, layers = given(torch.bfloat16, count, 0.5)
    exact = [Adapted(*(t.detach().double() if isinstance(t, Tensor) else t for t in layer)) for layer in layers]
    for ours, layer, true in zip(adapted_products(x, layers), layers, exact, strict=True):
        truth = apart(x.detach().double(), true)
        assert (ours - truth).norm() <= 1.05 * (apart(x, layer) - truth).norm()


def test_an_input_without_gradient_gets_none() -> None:
    x, layers = given(torch.float64, 3, 1.0)
    outputs = adapted_products(x.detach(), layers)
    trained = [tensor for layer in layers for tensor in (layer.down, layer.up)]
    assert all(each is not None for each in torch.autograd.grad(sum(out.sum() for out in outputs), trained))


TINY = str(ROOT / "src" / "loralab" / "assets" / "tiny")


@pytest.mark.parametrize("method", [each for each in METHODS if each.can_be_trained], ids=lambda each: each.__name__)
def test_layers_together_are_the_layers_apart(method: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each kind of adapter, as if on a GPU in half precision."""
    used = []
    own = lora.adapted_products
    monkeypatch.setattr(lora, "adapted_products", lambda *of: used.append(of) or own(*of))
    monkeypatch.setattr(lora, "is_adaptable", lambda layer, x: isinstance(layer, torch.nn.Linear))
    family = miniature(TINY)
    adapters = inject(family, method(rank=4), Targets(text_encoder=False)).train()
    for parameter in adapters.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    adapters.at_timesteps(torch.tensor([500, 900]))
    block = family.denoiser.down_blocks[1].attentions[0].transformer_blocks[0].attn1
    layers = block.to_q, block.to_k, block.to_v
    x = torch.randn(2, 5, block.to_q.in_features, generator=torch.Generator().manual_seed(1))
    joint = together(x, *layers)
    assert bool(used) == (method is lora.LoRA)
    monkeypatch.setattr(lora, "is_adaptable", lambda layer, x: False)
    for ours, layer in zip(joint, layers, strict=True):
        torch.testing.assert_close(ours, layer(x))
