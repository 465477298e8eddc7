"""A copy of a training state in memory."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class Kept:
    """Keeps one copy: the next is written into the same tensors, by one kernel for many of them."""

    def __init__(self) -> None:
        self._places: list[Tensor] = []

    @torch.no_grad()
    def copy(self, value: Any) -> Any:
        """Of dictionaries, lists and what is in them; a copy that was made before is no longer valid."""
        tensors = list({id(tensor): tensor for tensor in _plain_tensors(value)}.values())
        if list(map(_form, tensors)) != list(map(_form, self._places)):
            self._places = [torch.empty_like(tensor) for tensor in tensors]
        pairs: dict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for place, tensor in zip(self._places, tensors, strict=True):
            pairs[tensor.device, tensor.dtype].append((place, tensor))
        for alike in pairs.values():
            places, those = map(list, zip(*alike, strict=True))
            torch._foreach_copy_(places, those)  # pyright: ignore[reportPrivateImportUsage]
        copies = {id(tensor): place for tensor, place in zip(tensors, self._places, strict=True)}
        return copy.deepcopy(value, copies)  # all else; what is in `copies` is taken from there


def _plain_tensors(value: Any) -> Iterator[Tensor]:
    """Those without attributes of their own, such as bitsandbytes' paged ones have."""
    if type(value) is Tensor and not vars(value):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _plain_tensors(each)


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
