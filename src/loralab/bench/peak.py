"""The fastest that a device multiplies matrices, to which the work of a training step is compared."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from loralab.models import onednn

SIDES = {"cpu": 2048, "cuda": 8192}
"""Of the matrices: so large that starting a product takes no time beside it."""
ROUNDS = 5


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second in products of square matrices: the fastest of a few, by the clock.

    On a CPU, by the faster of the libraries that torch has for them.
    """
    side = SIDES[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    products = [
        torch.matmul,
        *([onednn.product] if (device.type, dtype) == ("cpu", torch.float32) and onednn.WORKS else []),
    ]
    _seconds(torch.matmul, a, b)  # the first one is slower
    return 2 * side**3 / min(_seconds(product, a, b) for product in products for _ in range(ROUNDS))


def _seconds(product: Callable[..., torch.Tensor], a: torch.Tensor, b: torch.Tensor) -> float:
    """Of one product; the device is waited for."""
    begin = time.perf_counter()
    product(a, b)[0, 0].item()
    return time.perf_counter() - begin
