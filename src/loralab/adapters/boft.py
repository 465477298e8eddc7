"""BOFT: stages of rotations whose blocks mix ever more distant outputs (arXiv 2311.06243), as LyCORIS has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from loralab.adapters.oft import OFT
from loralab.errors import user_error


@dataclass(frozen=True, kw_only=True)
class BOFT(OFT):
    """W' = R_m … R_1 W: each stage pairs halves of blocks at twice the distance of the last (a butterfly), so that in
    the end every output reaches every other. A rank is the largest size of a block; the number of blocks is a power of
    two.
    """

    required: ClassVar = OFT.required
    network_args: ClassVar = {"algo": "boft"}
    block_dims: ClassVar = 4
    """(stages, blocks, size, size)."""

    @staticmethod
    def no_rotation(out: int, rank: int) -> Tensor:
        """Raises a UserError where the outputs cannot be divided so."""
        size, count = butterfly(out, rank)
        return torch.zeros(count.bit_length(), count, size, size)

    @staticmethod
    def rotated(rotation: Tensor, rows: Tensor) -> Tensor:
        size = rotation.shape[-1]
        for stage, blocks in enumerate(rotation):
            distance = size // 2 << stage  # between the two halves of a block
            halves = rows.reshape(-1, 2, distance, rows.shape[1])
            turned = blocks @ halves.transpose(1, 2).reshape(-1, size, rows.shape[1])
            rows = turned.reshape(-1, distance, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)
        return rows


def butterfly(width: int, rank: int) -> tuple[int, int]:
    """width = size · count with the largest even size up to the rank for which the count is a power of 2.

    butterfly(320, 16) = (10, 32). Raises a UserError where there is none.
    """
    power = (width & -width).bit_length() - 1  # of 2, that divides the width
    sizes = [width >> exponent for exponent in range(power) if width >> exponent <= rank]
    if sizes:
        return sizes[0], width // sizes[0]
    smallest = width >> power - 1 if power else None
    remedy = f"set adapter.rank={smallest} or more, " if smallest else "exclude it with targets.patterns, "
    found = f"BOFT cannot divide a layer of {width} outputs into blocks of at most {rank}"
    raise user_error("adapter.rank", found, f"{remedy}or set adapter=oft")
