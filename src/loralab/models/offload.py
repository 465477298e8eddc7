"""Blocks whose frozen weights wait in the CPU's memory, and are on the device only while the block is computed.

A weight keeps its place on the device, but the storage of a block is empty until its forward and again until its
backward, as FSDP does with what it has sharded (arXiv 2304.11277). What autograd saves refers to the same storage, so
layers, adapters and gradient checkpointing need not know. While a block computes, the weights of the one that came
after it the last time are copied, on a stream of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from loralab.models.checkpointing import blocks_of

SMALL = 2**12
"""Elements up to which a weight stays on the device: there are many, and they take little."""
DEVICES = ("cuda",)
"""Kinds of devices whose memory is saved."""


def chosen(denoiser: nn.Module, amount: float) -> list[nn.Module]:
    """So many of the denoiser's blocks, or such a share (a float), evenly spread: each has time to be copied."""
    blocks = blocks_of(denoiser)
    count = min(amount if isinstance(amount, int) else ceil(amount * len(blocks)), len(blocks))
    return [block for i, block in enumerate(blocks) if (i + 1) * count // len(blocks) > i * count // len(blocks)]


def waiting(block: nn.Module) -> list[Tensor]:
    """The weights of a block that are copied."""
    return [tensor for tensor in block.parameters() if not tensor.requires_grad and tensor.numel() > SMALL]


def saved(denoiser: nn.Module, amount: float) -> int:
    """Bytes of the device that this saves: all but the two largest blocks."""
    sizes = sorted(sum(weights.nbytes for weights in waiting(block)) for block in chosen(denoiser, amount))
    return sum(sizes[:-2])


class Offload:
    """Blocks of a frozen model, prepared before it moves to its device; at most two of them are there at a time."""

    def __init__(self, blocks: Sequence[nn.Module], devices: Sequence[str] = DEVICES) -> None:
        self._devices = devices
        self._homes: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}
        """Of each block whose weights wait: their places, and the weights on the CPU."""
        self._followed: dict[tuple[nn.Module | None, bool], nn.Module] = {}
        """(block, whether in backward) → the one after it."""
        self._current: nn.Module | None = None
        self._there: dict[nn.Module, torch.Event | None] = {}
        """Blocks whose weights are on the device, or on their way until the event."""
        self._stream: torch.cuda.Stream | None = None
        for block in blocks:
            block._apply = partial(self._move, block, block._apply)  # pyright: ignore[reportAttributeAccessIssue]
            block.register_forward_pre_hook(self._before)
            block.register_forward_hook(self._after)

    def _move(
        self, block: nn.Module, move: Callable[..., nn.Module], change: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> nn.Module:
        """In the place of nn.Module._apply, by which `to` moves the block: weights that wait stay on the CPU."""
        self._return(block)
        device = change(torch.empty(0)).device
        if device.type not in self._devices:
            return move(change, recurse)
        homes = {id(place): (place, place.data) for place in waiting(block)}

        def moved(tensor: Tensor) -> Tensor:
            return _empty(tensor, device) if id(tensor) in homes else change(tensor)

        move(moved, recurse)
        self._homes[block] = [(place, _pinned(weights)) for place, weights in homes.values()]
        return block

    def _return(self, block: nn.Module) -> None:
        self._there.pop(block, None)
        self._current = None if self._current is block else self._current
        for place, weights in self._homes.pop(block, ()):
            place.data = weights

    def _before(self, block: nn.Module, _: Any) -> None:
        # while autograd is at work, a forward is one of gradient checkpointing
        self._need(block, torch._C._current_graph_task_id() != -1)

    def _after(self, block: nn.Module, _: Any, output: Any) -> None:
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda _: self._need(block, True))

    def _need(self, block: nn.Module, in_backward: bool) -> None:
        """Has the weights of a block on the device, those of the next come, and no others there."""
        if block not in self._homes:
            return
        if block is not self._current:
            self._followed[self._current, in_backward] = block
            self._fill(block)
            self._current = block
        if event := self._there[block]:
            torch.cuda.current_stream().wait_event(event)
        coming = self._followed.get((block, in_backward))
        for other in self._there.keys() - {block, coming}:
            del self._there[other]
            for place, _ in self._homes[other]:
                place.untyped_storage().resize_(0)
        if coming in self._homes:
            self._fill(coming)

    def _fill(self, block: nn.Module) -> None:
        if block in self._there:
            return
        homes = self._homes[block]
        if homes and homes[0][0].is_cuda and torch.cuda.is_available():
            self._there[block] = self._copy_aside(homes)
        else:
            _copy(homes)
            self._there[block] = None

    def _copy_aside(self, homes: Sequence[tuple[Tensor, Tensor]]) -> torch.Event:
        self._stream = self._stream or torch.cuda.Stream(homes[0][0].device)
        self._stream.wait_stream(torch.cuda.current_stream())  # what it overwrites may still be read
        with torch.cuda.stream(self._stream):
            _copy(homes)
            return self._stream.record_event()


def _copy(homes: Sequence[tuple[Tensor, Tensor]]) -> None:
    for place, weights in homes:
        place.untyped_storage().resize_(weights.untyped_storage().nbytes())
        place.data.copy_(weights, non_blocking=True)  # by .data: autograd does not count it as a change


def _empty(like: Tensor, device: torch.device) -> Tensor:
    """A place on the device for a tensor, which takes no memory."""
    place = torch.empty_like(like, device=device)
    place.untyped_storage().resize_(0)
    return place


def _pinned(weights: Tensor) -> Tensor:
    """The weights in memory of their own from which a GPU can copy while it computes."""
    weights = weights.clone(memory_format=torch.preserve_format)
    return weights.pin_memory() if torch.cuda.is_available() else weights
