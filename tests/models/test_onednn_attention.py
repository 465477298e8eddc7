"""Attention by oneDNN against torch's own."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loralab.models import onednn_attention
from loralab.models.families.sd.attention import MeasuredAttention
from loralab.models.onednn_attention import WORTHWHILE, attention

SIZES = [(1, 2, 600, 600, 40), (2, 3, 3500, 77, 16), (1, 1, 257, 4500, 160), (1, 2, 500, 500, 8)]
"""B, H, N, M, D; the last is too small to be worth it."""


@pytest.fixture(autouse=True)
def _is_used_on_any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn_attention, "is_faster", lambda: True)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Grows with each product by oneDNN."""
    calls: list[None] = []
    product = onednn_attention.product
    monkeypatch.setattr(onednn_attention, "product", lambda *of: calls.append(None) or product(*of))
    return calls


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def outputs(way: Callable[..., Tensor], given: list[Tensor]) -> list[Tensor]:
    """The output and the gradients of queries, keys and values, in fp64."""
    leaves = [each.clone().requires_grad_() for each in given]
    out = way(*leaves)
    gradients = torch.autograd.grad(out, leaves, drawn(9, *out.shape).to(out))
    return [each.detach().double() for each in (out, *gradients)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("is_view", [False, True])
def test_it_is_as_exact_as_torchs_forward_and_backward(
    size: tuple[int, ...], is_view: bool, counted: list[None]
) -> None:
    b, h, n, m, d = size
    shapes = [(b, h, n, d), (b, h, m, d), (b, h, m, d)]
    given = [drawn(seed, *shape) * 3 for seed, shape in enumerate(shapes)]
    if is_view:  # as a UNet passes them on
        given = [each.transpose(1, 2).contiguous().transpose(1, 2) for each in given]
    exact = outputs(F.scaled_dot_product_attention, [each.double() for each in given])
    ours, torchs = outputs(attention, given), outputs(F.scaled_dot_product_attention, given)
    assert bool(counted) == (n * m >= WORTHWHILE)
    for wanted, found, usual in zip(exact, ours, torchs, strict=True):
        assert (found - wanted).norm() <= 1.5 * (usual - wanted).norm()


def test_the_number_of_threads_changes_nothing(counted: list[None]) -> None:
    before, given = torch.get_num_threads(), [drawn(seed, 2, 3, 600, 32) for seed in range(3)]
    found = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(outputs(attention, given))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert counted
    for other in found[1:]:
        assert all(map(torch.equal, found[0], other))


def test_scores_too_large_for_exp_and_what_is_not_fp32() -> None:
    query, key, value = (drawn(seed, 1, 1, 600, 8) * (100 if seed < 2 else 1) for seed in range(3))
    wanted = F.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attention(query, key, value), wanted, atol=1e-4, rtol=1e-4)
    query, key, value = query.double(), key.double(), value.double()
    assert torch.equal(attention(query, key, value), F.scaled_dot_product_attention(query, key, value))


@pytest.mark.parametrize("tokens", [77, 600])
def test_a_transformers_attention_equals_that_of_diffusers(tokens: int, counted: list[None]) -> None:
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    own = Attention(64, 48 if tokens == 77 else None, heads=4, dim_head=16, dropout=0.0)
    ours = copy.deepcopy(own)
    own.set_processor(AttnProcessor2_0())  # type: ignore[arg-type]
    ours.set_processor(MeasuredAttention())  # type: ignore[arg-type]
    hidden = drawn(0, 2, 3500 if tokens == 77 else tokens, 64)
    keys = drawn(1, 2, tokens, 48) if tokens == 77 else None
    torch.testing.assert_close(ours(hidden, keys), own(hidden, keys), atol=1e-5, rtol=1e-5)
    assert counted


def test_masks_and_norms_are_left_to_torch(counted: list[None]) -> None:
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    for options in ({}, {"residual_connection": True}, {"qk_norm": "layer_norm"}, {"norm_num_groups": 8}):
        own = Attention(64, heads=4, dim_head=16, **options)  # type: ignore[arg-type]
        ours = copy.deepcopy(own)
        own.set_processor(AttnProcessor2_0())  # type: ignore[arg-type]
        ours.set_processor(MeasuredAttention())  # type: ignore[arg-type]
        hidden, mask = drawn(0, 1, 600, 64), torch.zeros(1, 600) if not options else None
        assert torch.equal(ours(hidden, None, mask), own(hidden, None, mask))
    assert not counted
