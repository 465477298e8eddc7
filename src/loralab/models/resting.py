"""Parts of a model that a run rarely needs: they rest on the CPU, and are on the device while they are used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

CPU = torch.device("cpu")


class Resting:
    """Parts by name. Their weights are frozen: those on the CPU stay there, and copies of them come and go.

    Where a part and the denoiser do not fit onto a GPU together, the denoiser makes room meanwhile. Parts whose weights
    bitsandbytes keeps do not rest: it moves more than their parameters.
    """

    def __init__(self, denoiser: nn.Module, parts: Mapping[str, nn.Module]) -> None:
        self._denoiser = denoiser
        self._parts = {name: part for name, part in parts.items() if _is_plain(part)}
        self._keeps = False
        self._here: dict[str, list[tuple[dict[str, Any], str, Tensor]]] = {}
        """Of each part on the device: where its tensors belong, and those on the CPU."""
        self._aside: torch.device | None = None
        """The device that the denoiser has left."""

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    @contextmanager
    def used(self, *names: str) -> Iterator[None]:
        """Inside the block these parts are on the denoiser's device."""
        for name in names:
            if name in self._parts and name not in self._here:
                self._fetch(name)
        with nullcontext() if self._keeps else self.keeping():
            yield

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Inside the block parts that were used stay, for those who use them again and again."""
        self._keeps = True
        try:
            yield
        finally:
            self._keeps = False
            for name in list(self._here):
                for store, key, tensor in self._here.pop(name):
                    store[key] = tensor
            if self._aside is not None:
                nn.Module.to(self._denoiser, self._aside)
                self._aside = None

    def _fetch(self, name: str) -> None:
        device = self._aside or next(self._denoiser.parameters()).device
        if device.type == "cpu":
            return
        part = self._parts[name]
        if not self._aside and not _has_room(part, device) and _is_plain(self._denoiser):
            nn.Module.to(self._denoiser, CPU)  # diffusers' own warns of types, which stay
            self._aside = device
        self._here[name] = replace(part, lambda tensor: tensor.to(device))


def _is_plain(module: nn.Module) -> bool:
    """Whether its weights are mere tensors, neither bitsandbytes' nor shared out by FSDP."""
    others = ("bitsandbytes.", "torch.distributed.")
    return not any(type(p).__module__.startswith(others) for p in module.parameters())


def _has_room(part: nn.Module, device: torch.device) -> bool:
    if not torch.cuda.is_available():
        return True
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return sum(p.nbytes for p in part.parameters()) < 0.9 * free


def replace(module: nn.Module, change: Callable[[Tensor], Tensor]) -> list[tuple[dict[str, Any], str, Tensor]]:
    """Puts others in the place of a module's tensors, one for each; returns where they belong, and the tensors."""
    found: list[tuple[dict[str, Any], str, Tensor]] = []
    made: dict[int, Tensor] = {}
    for inner in module.modules():
        for store, wrap in ((inner._parameters, _frozen), (inner._buffers, lambda tensor: tensor)):
            for key, tensor in store.items():
                if tensor is not None:
                    found.append((store, key, tensor))
                    made.setdefault(id(tensor), wrap(change(tensor.detach())))
    for store, key, tensor in found:
        store[key] = made[id(tensor)]
    return found


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
