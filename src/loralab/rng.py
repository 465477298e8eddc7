"""Randomness as a function: the same (seed, path) gives the same numbers, in any process, at any time."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Key = str | int


def derive(seed: int, *path: Key) -> int:
    """A 63-bit seed for a purpose: derive(seed, "noise", epoch, index)."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *path: Key) -> torch.Generator:
    """A CPU torch.Generator for a purpose."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *path))


def seed_default(seed: int, device: torch.device) -> None:
    """Seeds torch's own generators of the CPU and of a device as torch.manual_seed does, which also looks for devices
    of every other kind: half a millisecond of each step."""
    import torch

    if device.type not in ("cpu", "cuda"):
        torch.manual_seed(seed)
        return
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def python_random(seed: int, *path: Key) -> random.Random:
    """A random.Random for a purpose, where no tensors are drawn (captions, order)."""
    return random.Random(derive(seed, *path))
