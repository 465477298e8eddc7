"""A copy of a training state in memory."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

ROOM = 4
"""A copy is on a GPU where so many of them would find room, and else in the CPU's memory."""


class Kept:
    """Keeps one copy: the next is written into the same memory, of many tensors at once."""

    def __init__(self) -> None:
        self._forms: list[tuple[Any, ...]] = []
        self._places: list[Tensor] = []
        self._copied: torch.cuda.Event | None = None

    @torch.no_grad()
    def copy(self, value: Any) -> Any:
        """Of dictionaries, lists and what is in them; a copy that was made before is no longer valid.

        A GPU is not waited for: see `wait`.
        """
        tensors = list({id(tensor): tensor for tensor in _plain_tensors(value)}.values())
        forms = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        if forms != self._forms:
            self._places.clear()  # their memory is free for the new ones
            self._forms, self._places = forms, _places(tensors)
        pairs: dict[Any, list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for place, tensor in zip(self._places, tensors, strict=True):
            pairs[tensor.device, tensor.dtype].append((place, tensor))
        for alike in pairs.values():
            places, those = map(list, zip(*alike, strict=True))
            torch._foreach_copy_(places, those, non_blocking=True)  # pyright: ignore[reportPrivateImportUsage]
        if any(tensor.is_cuda for tensor in tensors):
            self._copied = torch.cuda.Event()
            self._copied.record()
        copies = {id(tensor): place for tensor, place in zip(tensors, self._places, strict=True)}
        return copy.deepcopy(value, copies)  # all else; what is in `copies` is taken from there

    def wait(self) -> None:
        """Until the copy can be read on the CPU."""
        if self._copied:
            self._copied.synchronize()


def _plain_tensors(value: Any) -> Iterator[Tensor]:
    """Those without attributes of their own, such as bitsandbytes' paged ones have."""
    if type(value) is Tensor and value.is_contiguous() and not vars(value):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _plain_tensors(each)


def _places(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors like these, of a kind in one piece of memory."""
    on_gpu = [tensor for tensor in tensors if tensor.is_cuda]
    needed = sum(tensor.nbytes for tensor in on_gpu)
    has_room = not on_gpu or ROOM * needed <= torch.cuda.mem_get_info(on_gpu[0].device)[0]
    kinds: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    for number, tensor in enumerate(tensors):
        kinds[tensor.device, tensor.dtype].append(number)
    places: dict[int, Tensor] = {}
    for (device, dtype), numbers in kinds.items():
        sizes = [tensors[number].numel() for number in numbers]
        where: dict[str, Any] = {"device": device} if has_room or device.type != "cuda" else {"pin_memory": True}
        pieces = torch.empty(sum(sizes), dtype=dtype, **where).split(sizes)
        places |= {n: piece.view(tensors[n].shape) for n, piece in zip(numbers, pieces, strict=True)}
    return [places[number] for number in range(len(tensors))]
