"""OFT: blocks of a weight's outputs are rotated (arXiv 2306.07280), as LyCORIS' diag-oft has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from loralab.adapters.base import LYCORIS, Layer, Tensors, weight_shape
from loralab.adapters.lokr import split
from loralab.adapters.multiplied import Multiplied
from loralab.schema.ranges import Positive


@dataclass(frozen=True, kw_only=True)
class OFT(Multiplied):
    """W' = Rᵀ W with R block-diagonal, each block the Cayley transform of Q = B − Bᵀ; `oft_blocks` holds the B.

    A rank is the largest size of a block; it divides the outputs, and there are no fewer blocks than a block is large.
    """

    constraint: Positive | None = None
    """Upper bound on the norm of all of a layer's Q, for each of its outputs, applied after every step."""
    rescaled: bool = False
    """Also trains a factor for each output, `rescale`."""

    required: ClassVar = frozenset({"oft_blocks"})
    optional: ClassVar = frozenset({"rescale"})
    network_module: ClassVar = LYCORIS
    network_args: ClassVar[Mapping[str, Any]] = {"algo": "diag-oft"}
    block_dims: ClassVar = 3
    """Of `oft_blocks`: (blocks, size, size)."""

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        out, *inside = weight_shape(layer)
        tensors = {"oft_blocks": self.no_rotation(out, rank)}
        return {**tensors, "rescale": torch.ones(out, *(1 for _ in inside))} if self.rescaled else tensors

    @staticmethod
    def no_rotation(out: int, rank: int) -> Tensor:
        """`oft_blocks` to start with."""
        size, count = split(out, rank)
        return torch.zeros(count, size, size)

    @classmethod
    def product(cls, tensors: Tensors, weight: Tensor) -> Tensor:
        turned = cls.rotated(rotations(cls.delta(tensors)), weight.flatten(1)).reshape(weight.shape)
        return turned * tensors["rescale"].reshape(-1, *(1,) * (weight.dim() - 1)) if "rescale" in tensors else turned

    @staticmethod
    def rotated(rotation: Tensor, rows: Tensor) -> Tensor:
        """Rows (out, n) rotated in blocks."""
        blocks = rows.reshape(*rotation.shape[:2], -1)
        return (rotation.transpose(1, 2) @ blocks).reshape(rows.shape)

    @staticmethod
    def delta(tensors: Tensors) -> Tensor:
        """Q, (…, size, size)."""
        return tensors["oft_blocks"] - tensors["oft_blocks"].transpose(-1, -2)

    @classmethod
    def factors(cls, tensors: Tensors) -> dict[str, Any]:
        return {"oft_blocks": tensors["oft_blocks"]}

    def norm_limit(self, layer: Layer) -> float | None:
        limits = [self.max_norm, self.constraint and self.constraint * weight_shape(layer)[0]]
        return min((limit for limit in limits if limit is not None), default=None)

    @classmethod
    def recognises(cls, tensors: Tensors) -> bool:
        return super().recognises(tensors) and tensors["oft_blocks"].dim() == cls.block_dims

    @classmethod
    def shape_of(cls, tensors: Tensors) -> torch.Size:
        count, size, other = tensors["oft_blocks"].shape[-3:]
        if size != other or ("rescale" in tensors and tensors["rescale"].numel() != count * size):
            raise RuntimeError("blocks that are not square, or factors of another layer")
        return torch.Size((count * size, 0))

    @classmethod
    def size(cls, tensors: Tensors) -> str:
        return f"blocks of {tensors['oft_blocks'].shape[-1]}"

    @classmethod
    def from_file(cls, tensors: dict[str, Tensor], alpha: float | None) -> tuple[dict[str, Tensor], float]:
        """A file's alpha is its constraint, which is applied here, once."""
        norm, limit = cls.delta(tensors).float().norm(), (alpha or 0) * cls.shape_of(tensors)[0]
        if 0 < limit < norm:
            blocks = tensors["oft_blocks"]
            tensors = {**tensors, "oft_blocks": (blocks.float() * (limit / norm)).to(blocks.dtype)}
        return tensors, 1.0

    @classmethod
    def in_file(cls, tensors: Tensors, alpha: Tensor) -> dict[str, Tensor]:
        """Without a constraint, which programs read in different ways; the blocks keep to it as they are."""
        return {"alpha": torch.zeros_like(alpha), **tensors}


def rotations(skew: Tensor) -> Tensor:
    """The Cayley transforms (I + Q)(I − Q)⁻¹ of skew-symmetric blocks Q (…, n, n)."""
    identity = torch.eye(skew.shape[-1], dtype=skew.dtype, device=skew.device)
    return torch.linalg.solve_ex(identity - skew, identity + skew, left=False)[0]  # I − Q is never singular
