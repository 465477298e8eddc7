"""Convolutions with packed weights against torch's own."""

import copy

import pytest
import torch
from torch import nn

from loralab.models.convolutions import FrozenConv2d, can_pack, set_convolutions

KINDS = [
    pytest.param({"kernel_size": 3, "padding": 1}, id="3x3"),
    pytest.param({"kernel_size": 3, "padding": 1, "stride": 2}, id="downsampling"),
    pytest.param({"kernel_size": 3}, id="without padding"),
    pytest.param({"kernel_size": (3, 5), "padding": (1, 2)}, id="3x5"),
    pytest.param({"kernel_size": 1}, id="1x1"),
    pytest.param({"kernel_size": 1, "bias": False}, id="1x1 without bias"),
]


def pair(**kind: object) -> tuple[nn.Conv2d, nn.Conv2d]:
    """torch's own frozen convolution, and ours of the same weights."""
    own = nn.Conv2d(32, 48, **kind).requires_grad_(False)  # type: ignore[arg-type]
    ours = nn.Conv2d(32, 48, **kind).requires_grad_(False)  # type: ignore[arg-type]
    ours.load_state_dict(own.state_dict())
    set_convolutions(ours, "auto")
    assert type(ours) is FrozenConv2d
    return own, ours


def outputs(layer: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the gradient of a fixed function of it with regard to the input."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    assert x.grad is not None
    return out.detach(), x.grad


@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradient_equal_those_of_torch(kind: dict) -> None:
    assert can_pack()
    own, ours = pair(**kind)
    for size in ((1, 32, 9, 12), (2, 32, 8, 8), (1, 32, 9, 12)):  # packed once, used for every shape
        x = torch.randn(size, generator=torch.Generator().manual_seed(0))
        for found, wanted in zip(outputs(ours, x), outputs(own, x), strict=True):
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert ours.state_dict().keys() == own.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_computes_in_bf16(kind: dict) -> None:
    own, ours = pair(**kind)
    x = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (out, gradient), (wanted, wanted_gradient) = outputs(ours, x), outputs(own, x)
    assert out.dtype == wanted.dtype == torch.bfloat16
    torch.testing.assert_close(out, wanted, atol=2e-2, rtol=2e-2)
    torch.testing.assert_close(gradient, wanted_gradient, atol=5e-2, rtol=5e-2)


def test_a_changed_weight_is_packed_again() -> None:
    own, ours = pair(kernel_size=3)
    x = torch.ones(1, 32, 8, 8)
    ours(x)
    for layer in (own, ours):
        layer.weight.data = layer.weight * 2
    torch.testing.assert_close(ours(x), own(x), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        own.weight.mul_(2)
        ours.weight.mul_(2)
    torch.testing.assert_close(ours(x), own(x), atol=1e-5, rtol=1e-5)


def test_a_used_layer_can_be_copied() -> None:
    _, ours = pair(kernel_size=3)
    x = torch.ones(1, 32, 8, 8)
    assert torch.equal(ours(x), copy.deepcopy(ours)(x))


def test_what_is_not_packed_is_exactly_as_it_was() -> None:
    own, ours = pair(kernel_size=3)
    x = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    assert torch.equal(ours.double()(x), own.double()(x))
    small, grouped, dilated = nn.Conv2d(4, 32, 3), nn.Conv2d(32, 32, 3, groups=2), nn.Conv2d(32, 32, 3, dilation=2)
    model = nn.Sequential(small, grouped, dilated, nn.Conv2d(32, 32, 3, padding_mode="circular", padding=1))
    set_convolutions(model, "auto")
    assert {type(layer) for layer in model} == {nn.Conv2d}
    kept = nn.Conv2d(32, 48, 3)
    set_convolutions(kept, "plain")
    assert type(kept) is nn.Conv2d


def test_whether_it_works_is_asked_under_autocast_without_a_trace() -> None:
    """As in the first step of a training: the random state is the step's, for its dropouts."""
    expected = can_pack()
    can_pack.cache_clear()
    before = torch.random.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert can_pack() == expected
    assert torch.equal(torch.random.get_rng_state(), before)
