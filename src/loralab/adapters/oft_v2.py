"""OFTv2: blocks of a layer's inputs are rotated (arXiv 2506.19847), as OneTrainer and PEFT have it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from loralab.adapters.base import Layer, Tensors, weight_shape
from loralab.adapters.multiplied import Multiplied

SCALED = "oft_R.scaled_oft"


@dataclass(frozen=True, kw_only=True)
class OFTv2(Multiplied):
    """W' = W Rᵀ, of convolutions W R with the kernel among the inputs; `oft_R` (blocks, size·(size − 1)/2) is what lies
    above the diagonal of the skew-symmetric Q.

    R is the Cayley transform's Neumann series up to Q⁴, with the last term halved. A rank is the size of blocks to
    come nearest to, of those that divide the inputs.
    """

    block_share: bool = False
    """All blocks of a layer are the same."""

    required: ClassVar = frozenset({"oft_R"})
    optional: ClassVar = frozenset({SCALED})
    flags: ClassVar = frozenset({SCALED})

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        width = weight_shape(layer)[1:].numel()
        size = nearest_divisor(width, rank)
        return {"oft_R": torch.zeros(1 if self.block_share else width // size, size * (size - 1) // 2)}

    @classmethod
    def product(cls, tensors: Tensors, weight: Tensor) -> Tensor:
        rotation = series(cls.delta(tensors))  # (blocks, size, size)
        if weight.dim() == 2:
            rotation = rotation.transpose(1, 2)
        blocks = weight.reshape(len(weight), -1, 1, rotation.shape[-1])  # (out, blocks, 1, size)
        return (blocks @ rotation).reshape(weight.shape)

    @staticmethod
    def delta(tensors: Tensors) -> Tensor:
        """Q, (blocks, size, size)."""
        above = tensors["oft_R"]
        size = _size(above)
        rows, columns = torch.triu_indices(size, size, 1, device=above.device)
        upper = above.new_zeros(len(above), size * size).index_copy(1, rows * size + columns, above)
        upper = upper.unflatten(1, (size, size))
        return upper - upper.transpose(1, 2)

    @classmethod
    def shape_of(cls, tensors: Tensors) -> torch.Size:
        blocks = tensors["oft_R"]
        if blocks.dim() != 2 or _size(blocks) * (_size(blocks) - 1) != 2 * blocks.shape[1]:
            raise RuntimeError("no upper triangles of square blocks")
        return torch.Size((0, len(blocks) * _size(blocks) if len(blocks) > 1 else 0))

    @classmethod
    def size(cls, tensors: Tensors) -> str:
        return f"blocks of {_size(tensors['oft_R'])}"

    @classmethod
    def from_file(cls, tensors: dict[str, Tensor], alpha: float | None) -> tuple[dict[str, Tensor], float]:
        """The flag says that the values are to be divided by the root of their number in a block."""
        blocks = tensors["oft_R"]
        scale = 1 / math.sqrt(blocks.shape[1]) if SCALED in tensors else 1.0
        return {"oft_R": blocks.float() * scale if SCALED in tensors else blocks}, 1.0

    @classmethod
    def in_file(cls, tensors: Tensors, alpha: Tensor) -> dict[str, Tensor]:
        return dict(tensors.items())


def series(skew: Tensor) -> Tensor:
    """I + 2Q + 2Q² + 2Q³ + Q⁴ (arXiv 2506.19847, section 3.3), near to (I + Q)(I − Q)⁻¹ for a small Q."""
    square = skew @ skew
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    return identity + 2 * (skew + square + square @ skew) + square @ square


def nearest_divisor(width: int, size: int) -> int:
    """The divisor of `width` nearest to `size`, the smaller of two as near."""
    return min((d for d in range(1, width + 1) if width % d == 0), key=lambda d: (abs(d - size), d))


def _size(above: Tensor) -> int:
    """Of a block with so many elements above its diagonal."""
    return (1 + math.isqrt(1 + 8 * above.shape[-1])) // 2
