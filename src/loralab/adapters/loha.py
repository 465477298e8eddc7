"""LoHa: the elementwise product of two changes of low rank (FedPara, arXiv 2108.06098; LyCORIS, arXiv 2309.14859)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from loralab.adapters.base import LYCORIS, Layer, Method, Tensors, weight_shape


@dataclass(frozen=True, kw_only=True)
class LoHa(Method):
    """ΔW = (w1_a · w1_b) ∘ (w2_a · w2_b), of rank up to r². A convolution's kernel is folded into its inputs.

    Files of others may have `hada_t1` and `hada_t2` (Tucker form): cores with the kernel.
    """

    required: ClassVar = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})
    optional: ClassVar = frozenset({"hada_t1", "hada_t2"})
    starts_at_zero: ClassVar = frozenset({"hada_w2_a"})
    network_module: ClassVar = LYCORIS
    network_args: ClassVar = {"algo": "loha"}

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        shape = weight_shape(layer)
        out, inside = shape[0], shape[1:].numel()
        return {
            "hada_w1_a": torch.randn(out, rank, generator=generator) * 0.1,
            "hada_w1_b": torch.randn(rank, inside, generator=generator),
            "hada_w2_a": torch.zeros(out, rank),
            "hada_w2_b": torch.randn(rank, inside, generator=generator),
        }

    @staticmethod
    def delta(tensors: Tensors) -> Tensor:
        first, second = (
            _factor(tensors[f"hada_w{i}_a"], tensors[f"hada_w{i}_b"], tensors.get(f"hada_t{i}")) for i in (1, 2)
        )
        return first * second

    @staticmethod
    def rank_of(tensors: Tensors) -> int:
        return tensors["hada_w1_b"].shape[0]


def _factor(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """a (out, r) · b (r, in), or the Tucker form of a (r, out), b (r, in) and a core (r, r, kh, kw)."""
    return a @ b if core is None else torch.einsum("rskl, si, ro -> oikl", core, b, a)
