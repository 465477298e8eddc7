"""What might make a training step faster, each measured alone, as JSON: python benchmarks/levers.py

In SD 1.5's shapes, rank 16, forward and backward; on a CPU at 256 pixels in fp32 on one thread, with --device cuda four
images of 512 pixels in bf16. With and without are measured in turn.
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
from loralab.models import onednn, onednn_attention, vae
from loralab.models.load import empty
from loralab.models.memory_format import set_memory_format
from loralab.models.registry import FAMILIES

RANK = 16
WIDTHS = (320, 1280)
"""Of image tokens in the outermost and the innermost blocks, and channels."""
TENSORS = 350
"""Of a LoRA on UNet and text encoder."""

Act = Callable[[], Any]


class Lever(NamedTuple):
    name: str
    without: Act
    with_it: Act
    used: bool
    """Whether training does it."""


class Setup(NamedTuple):
    device: str
    batch: int
    sides: tuple[int, int]
    """Of the latents, in the outermost and the innermost blocks."""
    dtype: torch.dtype

    @property
    def levels(self) -> list[tuple[int, int]]:
        """Image tokens of a batch, and their width."""
        return [(self.batch * side**2, width) for side, width in zip(self.sides, WIDTHS, strict=True)]

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


SETUPS = {"cpu": Setup("cpu", 1, (32, 4), torch.float32), "cuda": Setup("cuda", 4, (64, 8), torch.bfloat16)}


def levers(setup: Setup) -> Iterator[Lever]:
    yield from products(setup)
    yield from (on_gpu if setup.on_gpu else on_cpu)(setup)
    name = f"AdamW on {TENSORS} tensors of 16×640 as one kernel (`speed.fused`)"
    yield Lever(name, *_optimizer(foreach=False), True)
    yield Lever("the same, beside torch's `foreach`", *_optimizer(foreach=True), True)


def products(setup: Setup) -> Iterator[Lever]:
    for tokens, width in setup.levels:
        at = f"{tokens} tokens of width {width}"
        yield Lever(
            f"queries, keys and values: adapters' first factors as one product, {at}",
            *_one_product(tokens, width),
            False,
        )
        yield Lever(
            f"an adapter's first factor as further rows of the frozen weight, {at}", *_rows(tokens, width), False
        )
    side = setup.sides[0]
    name = f"a 3×3 convolution of {WIDTHS[0]} channels at {side}×{side}, channels last in memory"
    yield Lever(name + " (`speed.channels_last`)" * setup.on_gpu, *_channels_last(setup), setup.on_gpu)


def on_cpu(setup: Setup) -> Iterator[Lever]:
    for tokens, width in setup.levels:
        name = f"products by oneDNN (`model.kernels=auto`), {tokens} tokens of width {width}"
        yield Lever(name, *_kernels(tokens, width), True)
    name = "a 3×3 convolution of 1280 channels at 4×4 as a product with patches (`model.kernels=auto`)"
    yield Lever(name, *_patches(), True)
    for tokens, width in ((4096, 40), (1024, 80)):  # of 512 px
        name = f"attention of {tokens} tokens in 8 heads of {width} by oneDNN (`model.attention=auto`)"
        yield Lever(name, *_attention(tokens, width), True)
    name = "an image of 256×256 through the VAE's encoder, channels last in memory: ten times the rounding error"
    yield Lever(name, *_encoder(), False)


def on_gpu(setup: Setup) -> Iterator[Lever]:
    for tokens, width in setup.levels:
        yield Lever(
            f"fp32 products in TF32 (`speed.tf32`), {tokens} tokens of width {width}", *_tf32(tokens, width), True
        )
    tokens, width = setup.levels[0]
    name = f"a transformer block of {tokens} tokens: what it keeps for backward waits in the CPU's memory"
    yield Lever(name, *_kept_on_cpu(setup), False)
    yield Lever(f"a frozen layer's product in fp8, {tokens} tokens of width {width}", *_fp8(tokens, width), False)


def _leaf(*shape: int, grad: bool = True, dtype: torch.dtype | None = None) -> Tensor:
    return torch.randn(*shape, dtype=dtype).mul_(0.02).requires_grad_(grad)


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


def _attention(tokens: int, width: int) -> tuple[Act, Act]:
    given = [_leaf(1, tokens, 8, width) for _ in "qkv"]
    q, k, v = (each.transpose(1, 2) for each in given)
    ours, torchs = onednn_attention.attention, F.scaled_dot_product_attention
    return _trained(lambda: torchs(q, k, v), *given), _trained(lambda: ours(q, k, v), *given)


def _encoder() -> tuple[Act, Act]:
    row = FAMILIES["sd1"]
    plain, last = (empty(row, "vae", row.architecture["vae"]).eval() for _ in range(2))
    set_memory_format(last, torch.channels_last)
    image = _leaf(1, 3, 256, 256, grad=False)
    encode = torch.no_grad()(vae.encode)
    return lambda: encode(plain, image), lambda: encode(last, image)


def _patches() -> tuple[Act, Act]:
    plain, product = (nn.Conv2d(1280, 1280, 3, padding=1).requires_grad_(False) for _ in range(2))
    onednn.set_kernels(nn.Sequential(product), "auto")
    x = _leaf(1, 1280, 4, 4)
    return _trained(lambda: plain(x), x), _trained(lambda: product(x), x)


def _channels_last(setup: Setup) -> tuple[Act, Act]:
    plain, last = (nn.Conv2d(WIDTHS[0], WIDTHS[0], 3, padding=1).requires_grad_(False) for _ in range(2))
    last.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    x = _leaf(setup.batch, WIDTHS[0], setup.sides[0], setup.sides[0])
    y = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    return _trained(lambda: plain(x), x), _trained(lambda: last(y), y)


def _optimizer(foreach: bool) -> tuple[Act, Act]:
    def act(**how: bool) -> Act:
        tensors = [_leaf(RANK, 640, dtype=torch.float32) for _ in range(TENSORS)]
        for tensor in tensors:
            tensor.grad = torch.ones_like(tensor)
        return torch.optim.AdamW(tensors, **how).step  # pyright: ignore[reportArgumentType]

    return act(foreach=foreach), act(fused=True)


def _tf32(tokens: int, width: int) -> tuple[Act, Act]:
    x, weight = _leaf(tokens, width, dtype=torch.float32), _leaf(8 * width, width, grad=False, dtype=torch.float32)
    product = _trained(lambda: F.linear(x, weight), x)

    def act(precision: str) -> Act:
        def with_precision() -> None:
            torch.set_float32_matmul_precision(precision)
            product()

        return with_precision

    return act("highest"), act("high")


def _fp8(tokens: int, width: int) -> tuple[Act, Act]:
    """Forward alone; the input is scaled each time, by its largest element."""
    x, weight = _leaf(tokens, width, grad=False), _leaf(8 * width, width, grad=False)

    def packed(tensor: Tensor) -> tuple[Tensor, Tensor]:
        scale = tensor.abs().amax().float() / 448
        return (tensor / scale).to(torch.float8_e4m3fn), scale

    weight8, weight_scale = packed(weight)

    def with_it() -> Tensor:
        x8, scale = packed(x)
        return torch.ops.aten._scaled_mm(x8, weight8.t(), scale, weight_scale, out_dtype=x.dtype)

    return (lambda: F.linear(x, weight)), with_it


def _block(setup: Setup) -> tuple[nn.Module, Tensor, Tensor]:
    """A transformer block of the outermost level, image tokens and text."""
    tokens, width = setup.sides[0] ** 2, WIDTHS[0]
    block = BasicTransformerBlock(width, 8, width // 8, cross_attention_dim=768).requires_grad_(False)
    return block, _leaf(setup.batch, tokens, width), _leaf(setup.batch, 77, 768, grad=False)


def _kept_on_cpu(setup: Setup) -> tuple[Act, Act]:
    block, x, text = _block(setup)

    def moved() -> Tensor:
        with torch.autograd.graph.save_on_cpu(pin_memory=setup.on_gpu):
            return block(x, encoder_hidden_states=text)

    return _trained(lambda: block(x, encoder_hidden_states=text), x), _trained(moved, x)


def compiled(setup: Setup, rounds: int) -> dict[str, Any]:
    """A transformer block by torch.compile: what compiling takes, and what it gains."""
    block, x, text = _block(setup)
    quick = torch.compile(block, dynamic=False)
    act = _trained(lambda: quick(x, encoder_hidden_states=text), x)
    start = time.perf_counter()
    act()
    seconds = time.perf_counter() - start
    plain = _trained(lambda: block(x, encoder_hidden_states=text), x)
    name = f"a transformer block of {setup.levels[0][0]} tokens by torch.compile (`speed.compile`)"
    lever = Lever(name, plain, act, False)
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
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        count += 1
    return passed / count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=at_least(1), default=15)
    parser.add_argument("--device", choices=SETUPS, default="cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too, which takes minutes")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: no CUDA device found")
    setup = SETUPS[given.device]
    torch.set_num_threads(1)
    torch.set_default_device(setup.device)
    torch.set_default_dtype(setup.dtype)
    torch.manual_seed(0)
    rows = [measure(lever, given.rounds) for lever in levers(setup)]
    rows += [compiled(setup, given.rounds)] if given.compile else []
    print(json.dumps({"levers": rows}, indent=1))
