"""What weights take that bitsandbytes quantizes."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn


def quantized_bytes(linear: nn.Linear, kind: str) -> int:
    """Bytes of a weight as bitsandbytes stores it.

    int8: a byte for each element and a float for each row. nf4: half a byte, and for each block of 64 its largest value
    in 8 bits, those in blocks of 256 with a float each and their mean; a code book of 16 floats, and one of 256.
    """
    elements = linear.weight.numel()
    if kind == "int8":
        return elements + 4 * linear.out_features
    blocks = -(-elements // 64)
    return -(-elements // 2) + blocks + 4 * -(-blocks // 256) + 4 * (1 + 16 + 256)


def quantization_saves(parts: Iterable[nn.Module], kind: str) -> int:
    """Bytes that quantizing the weights of these parts saves."""
    linears = [module for part in parts for module in part.modules() if isinstance(module, nn.Linear)]
    return sum(linear.weight.nbytes - quantized_bytes(linear, kind) for linear in linears)
