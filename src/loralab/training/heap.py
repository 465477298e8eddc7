"""The heap of glibc, which keeps what is freed: with tensors of many sizes it grows to a half more than they take.

Not what is larger than 32 MB, unless asked to; mapping that anew each time takes longer than adding two such tensors.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""See mallopt(3): bytes that may stay free at the heap's end; and of a tensor from which on it is mapped."""
LARGE = 2**19
MOST = 2**31 - 1


def keep_small() -> None:
    """From now on has large tensors given back when they are freed. glibc would raise the threshold by itself."""
    _keep_below(LARGE)


def keep_all() -> None:
    """From now on has the memory of what is freed kept for what comes next."""
    _keep_below(MOST)


def _keep_below(size: int) -> None:
    if library := _glibc():
        library.mallopt(M_MMAP_THRESHOLD, size)
        library.mallopt(M_TRIM_THRESHOLD, size)


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
