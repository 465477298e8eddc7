"""What quantized weights take."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from loralab.models.packed import is_large_conv


def quantized_bytes(layer: nn.Linear | nn.Conv2d, kind: str) -> int:
    """Bytes of a weight as it is stored.

    int8, fp8, and convolutions: a byte for each element and a float for each row. nf4: half a byte, and for each block
    of 64 its largest value in 8 bits, those in blocks of 256 with a float each and their mean; a code book of 16
    floats, and one of 256.
    """
    elements = layer.weight.numel()
    if kind != "nf4" or isinstance(layer, nn.Conv2d):
        return elements + 4 * len(layer.weight)
    blocks = -(-elements // 64)
    return -(-elements // 2) + blocks + 4 * -(-blocks // 256) + 4 * (1 + 16 + 256)


def quantization_saves(parts: Iterable[nn.Module], kind: str) -> int:
    """Bytes that quantizing the weights of these parts saves."""
    modules = [module for part in parts for module in part.modules()]
    layers = [m for m in modules if isinstance(m, nn.Linear) or (isinstance(m, nn.Conv2d) and is_large_conv(m))]
    return sum(layer.weight.nbytes - quantized_bytes(layer, kind) for layer in layers)
