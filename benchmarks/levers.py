"""What might make a training step faster, each measured alone, as JSON: python benchmarks/levers.py

In SD 1.5's shapes at 256 pixels on one thread: 1024 image tokens of width 320, 16 of width 1280; rank 16, fp32, forward
and backward. With and without are measured in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from loralab.at_least import at_least
from loralab.models import onednn

RANK = 16
LEVELS = ((1024, 320), (16, 1280))
"""Image tokens and their width, in the outermost and the innermost blocks."""
TENSORS = 350
"""Of a LoRA on UNet and text encoder."""

Act = Callable[[], Any]


class Lever(NamedTuple):
    name: str
    without: Act
    with_it: Act
    used: bool
    """Whether training does it."""


def levers() -> Iterator[Lever]:
    for tokens, width in LEVELS:
        at = f"{tokens} tokens of width {width}"
        yield Lever(
            f"queries, keys and values: adapters' first factors as one product, {at}",
            *_one_product(tokens, width),
            False,
        )
        yield Lever(
            f"an adapter's first factor as further rows of the frozen weight, {at}", *_rows(tokens, width), False
        )
        yield Lever(f"products by oneDNN (`model.kernels=auto`), {at}", *_kernels(tokens, width), True)
    yield Lever(
        "a 3×3 convolution of 1280 channels at 4×4 as a product with patches (`model.kernels=auto`)", *_patches(), True
    )
    yield Lever("a 3×3 convolution of 320 channels at 32×32, channels last in memory", *_channels_last(), False)
    yield Lever(f"AdamW on {TENSORS} tensors of 16×640 as one kernel (`speed.fused`)", *_optimizer(foreach=False), True)
    yield Lever("the same, beside torch's `foreach`", *_optimizer(foreach=True), True)


def _leaf(*shape: int, grad: bool = True) -> Tensor:
    return torch.randn(*shape).mul_(0.02).requires_grad_(grad)


def _trained(forward: Callable[[], Tensor], *leaves: Tensor) -> Act:
    """Forward and backward to these."""

    def act() -> None:
        torch.autograd.grad(forward().sum(), leaves)

    return act


def _one_product(tokens: int, width: int) -> tuple[Act, Act]:
    x, downs, ups = _leaf(1, tokens, width), [_leaf(RANK, width) for _ in "qkv"], [_leaf(width, RANK) for _ in "qkv"]

    def apart() -> Tensor:
        return torch.stack([F.linear(F.linear(x, down), up) for down, up in zip(downs, ups, strict=True)])

    def together() -> Tensor:
        inner = F.linear(x, torch.cat(downs)).split(RANK, -1)
        return torch.stack([F.linear(part, up) for part, up in zip(inner, ups, strict=True)])

    return _trained(apart, x, *downs, *ups), _trained(together, x, *downs, *ups)


def _rows(tokens: int, width: int) -> tuple[Act, Act]:
    x, weight, down, up = (
        _leaf(1, tokens, width),
        _leaf(width, width, grad=False),
        _leaf(RANK, width),
        _leaf(width, RANK),
    )

    def apart() -> Tensor:
        return onednn.linear(x, weight) + F.linear(F.linear(x, down), up)

    def together() -> Tensor:
        out = onednn.linear(x, torch.cat([weight, down]))
        return out[..., :width] + F.linear(out[..., width:], up)

    return _trained(apart, x, down, up), _trained(together, x, down, up)


def _kernels(tokens: int, width: int) -> tuple[Act, Act]:
    x, weight = _leaf(1, tokens, width), _leaf(8 * width, width, grad=False)  # of the feed-forward layer
    return _trained(lambda: F.linear(x, weight), x), _trained(lambda: onednn.linear(x, weight), x)


def _patches() -> tuple[Act, Act]:
    plain, product = (nn.Conv2d(1280, 1280, 3, padding=1).requires_grad_(False) for _ in range(2))
    onednn.set_kernels(nn.Sequential(product), "auto")
    x = _leaf(1, 1280, 4, 4)
    return _trained(lambda: plain(x), x), _trained(lambda: product(x), x)


def _channels_last() -> tuple[Act, Act]:
    plain, last = (nn.Conv2d(320, 320, 3, padding=1).requires_grad_(False) for _ in range(2))
    last.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = _leaf(1, 320, 32, 32)
    y = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    return _trained(lambda: plain(x), x), _trained(lambda: last(y), y)


def _optimizer(foreach: bool) -> tuple[Act, Act]:
    def act(**how: bool) -> Act:
        tensors = [_leaf(RANK, 640) for _ in range(TENSORS)]
        for tensor in tensors:
            tensor.grad = torch.ones_like(tensor)
        return torch.optim.AdamW(tensors, **how).step  # pyright: ignore[reportArgumentType]

    return act(foreach=foreach), act(fused=True)


def compiled(rounds: int) -> dict[str, Any]:
    """A transformer block of the outermost level by torch.compile: what compiling takes, and what it gains."""
    tokens, width = LEVELS[0]
    block = BasicTransformerBlock(width, 8, width // 8, cross_attention_dim=768).requires_grad_(False)
    x, text = _leaf(1, tokens, width), _leaf(1, 77, 768, grad=False)
    quick = torch.compile(block)
    act = _trained(lambda: quick(x, encoder_hidden_states=text), x)
    start = time.perf_counter()
    act()
    seconds = time.perf_counter() - start
    plain = _trained(lambda: block(x, encoder_hidden_states=text), x)
    lever = Lever(f"a transformer block of {tokens} tokens by torch.compile", plain, act, False)
    return {**measure(lever, rounds), "compile_seconds": round(seconds, 1)}


def measure(lever: Lever, rounds: int) -> dict[str, Any]:
    """Median milliseconds, and the median of the ratios of a round with the lowest and the highest."""
    pairs = [(_seconds(lever.without), _seconds(lever.with_it)) for _ in range(rounds + 1)][1:]
    ratios = sorted(after / before for before, after in pairs)
    without, with_it = (1000 * median(times) for times in zip(*pairs, strict=True))
    facts = {"name": lever.name, "used": lever.used, "ms_without": round(without, 3), "ms_with": round(with_it, 3)}
    return {**facts, "ratio": round(median(ratios), 3), "ratios": [round(ratios[0], 3), round(ratios[-1], 3)]}


def _seconds(act: Act, least: float = 0.05) -> float:
    """Of one, repeated for a while."""
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < least or not count:
        act()
        count += 1
    return passed / count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=at_least(1), default=15)
    parser.add_argument("--compile", action="store_true", help="torch.compile, too, which takes minutes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = [measure(lever, given.rounds) for lever in levers()]
    print(json.dumps({"levers": rows + [compiled(given.rounds)] * given.compile}, indent=1))
