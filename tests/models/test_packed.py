"""Weights in fewer bits: each error within its bound, gradients those of the weights that they stand for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from loralab.adapters.base import plain_weight
from loralab.models.families import anima, sdxl, zimage
from loralab.models.packed import PackedConv2d, PackedLinear, pack, pack_layer, unpack
from loralab.models.quantize import dequantized, quantize
from tests import ROOT

TINY = str(ROOT / "src" / "loralab" / "assets" / "tiny")
FAMILIES = {
    "sdxl": lambda: sdxl.miniature(TINY, kernels="torch"),
    "zimage": lambda: zimage.miniature(kernels="torch"),
    "anima": lambda: anima.miniature(kernels="torch"),
}
SHAPES = [(48, 64), (32, 16, 3, 3)]


def weights(shape: tuple[int, ...]) -> torch.Tensor:
    """With rows of very different sizes, one of them zero."""
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=draw) * torch.logspace(-6, 3, shape[0]).view(-1, *[1] * (len(shape) - 1))
    weight[3] = 0
    return weight


@pytest.mark.parametrize("shape", SHAPES)
def test_each_weight_is_within_the_stated_error(shape: tuple[int, ...]) -> None:
    weight = weights(shape)
    largest = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1)).expand_as(weight)
    for packing, bound in (("fp8", torch.maximum(weight.abs() / 16, largest * 2**-19)), ("int8", largest / 254)):
        packed, scale = pack(weight, packing)  # pyright: ignore[reportArgumentType]
        assert packed.nbytes == weight.numel()
        error = (unpack(packed, scale, torch.float32) - weight).abs()
        assert (error <= bound * 1.0001).all(), packing
        assert error.max() > 0, "in eight bits something is lost"


def kept_by(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """What a layer gives, and what it keeps for backward."""
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        return layer(x), kept


@pytest.mark.parametrize("packing", ["fp8", "int8"])
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: nn.Linear(16, 24), (2, 5, 16)),
        (lambda: nn.Conv2d(16, 24, 3, padding=1), (2, 16, 7, 6)),
        (lambda: nn.Conv2d(16, 24, 3, stride=2, padding=1), (1, 16, 8, 8)),
        (lambda: nn.Conv2d(16, 24, 1, bias=False), (1, 16, 4, 4)),
    ],
)
def test_a_layer_computes_with_the_weights_it_stands_for(packing: Any, make: Any, x: tuple[int, ...]) -> None:
    """Forward and the gradient of its input, in fp32 and under autocast; and no copy of the weights is kept."""
    torch.manual_seed(0)
    layer = make()
    twin = type(layer)(*(layer.in_features, layer.out_features)) if isinstance(layer, nn.Linear) else None
    how = None if twin is not None else (layer.stride, layer.padding)
    pack_layer(layer, packing, torch.float32)
    assert isinstance(layer, (PackedLinear, PackedConv2d))
    weight = dequantized(layer)
    torch.testing.assert_close(plain_weight(layer), weight, rtol=0, atol=0)
    assert weight.shape == layer.weight.shape

    def expected(x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, weight, layer.bias) if how is None else F.conv2d(x, weight, layer.bias, *how)

    for enabled, tolerance in ((False, 1e-5), (True, 2e-2)):
        one = torch.randn(x, generator=torch.Generator().manual_seed(1)).requires_grad_()
        other = one.detach().clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found, kept = kept_by(layer, one)
            wanted = expected(other)
        assert found.dtype == wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=tolerance, atol=tolerance)
        assert sum(t.nbytes for t in kept) == layer.weight.nbytes + layer.scale.nbytes
        found.float().square().sum().backward()
        wanted.float().square().sum().backward()
        torch.testing.assert_close(one.grad, other.grad, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("kind", "bound"), [("fp8", 0.08), ("int8", 0.03), ("nf4", 0.25)])
def test_the_error_of_a_prediction(family: str, kind: Any, bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small, with convolutions packed, too: ‖difference‖ / ‖prediction‖."""
    if kind != "fp8":
        pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("loralab.models.packed.LARGE_CONV", 2**11)
    full, small = (FAMILIES[family]() for _ in range(2))
    for part in small.parts().values():
        quantize(part, kind, torch.float32)
    assert any(isinstance(module, PackedConv2d) for module in small.denoiser.modules()) == (family == "sdxl")
    noisy = torch.randn(2, *small.latent_shape(64, 64), generator=torch.Generator().manual_seed(0))
    one, other = (m.predict(noisy, torch.tensor([10, 500]), m.encode_text(["a star", "b"])) for m in (small, full))
    error = ((one - other).norm() / other.norm()).item()
    print(family, kind, error)
    assert 0 < error < bound
