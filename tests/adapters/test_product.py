"""A linear layer with its LoRA as one function: what the two compute apart."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loralab.adapters.product import adapted_product

SHAPES = ((2, 5, 6), (4, 6), (4,), (3, 6), (4, 3))
"""Of x, weight, bias, down and up."""


def given(dtype: torch.dtype) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    tensors = [torch.randn(shape, generator=draw, dtype=torch.float64).to(dtype) for shape in SHAPES]
    return [tensor.requires_grad_(index not in (1, 2)) for index, tensor in enumerate(tensors)]


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("has_bias", [True, False])
def test_its_gradients_are_those_of_finite_differences(scale: float, has_bias: bool) -> None:
    x, weight, bias, down, up = given(torch.float64)

    def product(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        return adapted_product(x, weight, bias if has_bias else None, down, up, scale)

    assert torch.autograd.gradcheck(product, (x, down, up))
    plain = F.linear(x, weight, bias if has_bias else None) + F.linear(F.linear(x, down), up) * scale
    torch.testing.assert_close(product(x, down, up), plain)


def test_in_half_precision_it_is_no_further_from_the_truth_than_layer_and_adapter_apart() -> None:
    halves = given(torch.bfloat16)
    x, weight, bias, down, up = (tensor.detach().double() for tensor in halves)
    truth = F.linear(x, weight, bias) + F.linear(F.linear(x, down), up) * 0.5
    x, weight, bias, down, up = halves
    apart = F.linear(x, weight, bias) + F.linear(F.linear(x, down) * 0.5, up)
    ours = adapted_product(x, weight, bias, down, up, 0.5)
    assert (ours - truth).norm() <= 1.05 * (apart - truth).norm()


def test_an_input_without_gradient_gets_none() -> None:
    x, weight, bias, down, up = given(torch.float64)
    out = adapted_product(x.detach(), weight, bias, down, up, 1.0)
    assert all(each is not None for each in torch.autograd.grad(out.sum(), (down, up)))
