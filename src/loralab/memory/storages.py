"""Memory of tensors, counted from the results of operations."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Storages(TorchDispatchMode):
    """Within it every storage that an operation returns is counted once, until it is freed; sizes in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._counted: set[int] = set()

    def more_in(self, work: Callable[[], object]) -> int:
        """Peak bytes that `work` takes in addition to those in use before."""
        self.peak = before = self.now
        work()
        return self.peak - before

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._counted:
            return
        self._counted.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._counted.discard(key)
        self.now -= size


@contextmanager
def norms_in_fp32() -> Iterator[None]:
    """Within it CPU autocast computes norms in fp32, as CUDA's does: what they take and give is larger.

    In backward, too, where gradient checkpointing computes them again (a TorchFunctionMode does not hold there).
    """
    originals = {name: getattr(F, name) for name in ("group_norm", "layer_norm")}

    def in_fp32(function: Any, *args: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            args = tuple(arg.float() if isinstance(arg, Tensor) else arg for arg in args)
        return function(*args)

    try:
        for name, function in originals.items():
            setattr(F, name, partial(in_fp32, function))
        yield
    finally:
        for name, function in originals.items():
            setattr(F, name, function)
