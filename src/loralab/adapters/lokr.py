"""LoKr: a Kronecker product of a small matrix and a larger one, itself of low rank (LyCORIS, arXiv 2309.14859)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loralab.adapters.base import LYCORIS, Adapter, Layer, Method, Tensors, apply, by_output, kept_rows, weight_shape
from loralab.adapters.lora import uniform
from loralab.schema.ranges import AtLeastOne


@dataclass(frozen=True, kw_only=True)
class LoKr(Method):
    """ΔW = w1 ⊗ w2, where either may be a product a · b of low rank; a convolution's kernel is in w2.

    Where w2 is too small for the rank to save anything it is kept whole; if w1 is whole too, alpha has no effect.
    Files of others may have a `lokr_t2` (Tucker form): a core with the kernel.
    """

    factor: AtLeastOne | None = None
    """Size of w1, at most; null = as near to the square root as the layer's widths divide."""
    decompose_both: bool = False
    """Gives w1 a low rank, too."""
    full_matrix: bool = False
    """Keeps w2 whole whatever the rank."""

    required: ClassVar = frozenset()
    optional: ClassVar = frozenset(
        {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}
    )
    starts_at_zero: ClassVar = frozenset({"lokr_w2", "lokr_w2_b"})
    network_module: ClassVar = LYCORIS
    network_args: ClassVar = {"algo": "lokr"}

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        out, inside, *kernel = weight_shape(layer)
        (out1, out2), (in1, in2) = split(out, self.factor), split(inside, self.factor)
        folded = in2 * torch.Size(kernel).numel()
        tensors: dict[str, Tensor] = {}
        if self.decompose_both and not self.full_matrix and rank < max(out1, in1) / 2:
            tensors["lokr_w1_a"] = uniform((out1, rank), generator)
            tensors["lokr_w1_b"] = uniform((rank, in1), generator)
        else:
            tensors["lokr_w1"] = uniform((out1, in1), generator)
        if self.full_matrix or rank >= max(out2, in2) / 2:
            tensors["lokr_w2"] = torch.zeros(out2, in2, *kernel)
        else:
            tensors["lokr_w2_a"] = uniform((out2, rank), generator)
            tensors["lokr_w2_b"] = torch.zeros(rank, folded)
        return tensors

    def output(self, adapter: Adapter, x: Tensor) -> Tensor:
        """(w1 ⊗ w2) x without the product: w2 on each of the in1 groups of features, then w1 across the groups."""
        out = adapter.plain(x)
        w1 = _first(adapter.tensors) * adapter.scale
        w2 = _second(adapter.tensors)
        x = F.dropout(x, self.dropout, adapter.training) if self.dropout else x
        if isinstance(adapter.layer, nn.Conv2d):
            added = _convolved(adapter.layer, x, w1, w2)
        else:
            groups = F.linear(x.unflatten(-1, (w1.shape[1], -1)), w2.to(x.dtype))  # (…, in1, out2)
            added = torch.einsum("...id, oi -> ...od", groups, w1.to(x.dtype)).flatten(-2)
        if adapter.training and self.rank_dropout:
            rows = kept_rows(out.shape[1] if out.dim() == 4 else out.shape[-1], self.rank_dropout, out)
            added = by_output(added, rows)
        return out + added

    @staticmethod
    def delta(tensors: Tensors) -> Tensor:
        w1, w2 = _first(tensors), _second(tensors)
        if w2.dim() == 4:
            w1 = w1[:, :, None, None]
        return torch.kron(w1, w2.contiguous())

    @staticmethod
    def rank_of(tensors: Tensors) -> int | None:
        low = [tensors[name] for name in ("lokr_w2_b", "lokr_w1_b") if name in tensors]
        return low[0].shape[0] if low else None

    @classmethod
    def recognises(cls, tensors: Tensors) -> bool:
        names = set(tensors)
        first = ("lokr_w1" in names) != ({"lokr_w1_a", "lokr_w1_b"} <= names)
        second = ("lokr_w2" in names) != ({"lokr_w2_a", "lokr_w2_b"} <= names)
        return first and second and names <= cls.optional


def split(width: int, factor: int | None) -> tuple[int, int]:
    """width = a · b with a ≤ b: by `factor` where it divides the width, else by the largest divisor up to it.

    split(320, None) = (16, 20); split(320, 8) = (8, 40).
    """
    if factor and width % factor == 0:
        a = min(factor, width // factor)
    else:
        limit = min(factor or width, math.isqrt(width))
        a = next(a for a in range(limit, 0, -1) if width % a == 0)
    return a, width // a


def _first(tensors: Tensors) -> Tensor:
    return tensors["lokr_w1"] if "lokr_w1" in tensors else tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]


def _second(tensors: Tensors) -> Tensor:
    """w2, (out2, in2) or (out2, in2, kh, kw), or (out2, in2·kh·kw) where it is of low rank."""
    if "lokr_w2" in tensors:
        return tensors["lokr_w2"]
    a, b = tensors["lokr_w2_a"], tensors["lokr_w2_b"]
    core = tensors.get("lokr_t2")
    return a @ b.flatten(1) if core is None else torch.einsum("rskl, si, ro -> oikl", core, b, a)


def _convolved(layer: nn.Conv2d, x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    kernel = w2.reshape(w2.shape[0], layer.in_channels // w1.shape[1], *layer.kernel_size)
    groups = apply(layer, x.unflatten(1, (w1.shape[1], -1)).flatten(0, 1), kernel)  # (B·in1, out2, H, W)
    groups = groups.unflatten(0, (x.shape[0], -1))
    return torch.einsum("bidhw, oi -> bodhw", groups, w1.to(x.dtype)).flatten(1, 2)
