"""The heap of glibc, which keeps what is freed: with tensors of many sizes it grows to a half more than they take."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

M_MMAP_THRESHOLD = -3
"""See mallopt(3): above it, memory is mapped, and given back when it is freed."""
LARGE = 2**19
"""Bytes of a tensor from which on it is."""


def keep_small() -> None:
    """From now on has large tensors given back when they are freed. glibc would raise the threshold by itself."""
    if library := _glibc():
        library.mallopt(M_MMAP_THRESHOLD, LARGE)


def trim() -> None:
    """Gives back what is free."""
    if library := _glibc():
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    """None on other systems."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
