"""Which kind of adapter the tensors of a file are, and what they do to a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loralab.adapters.base import Method, change
from loralab.adapters.dora import DoRA
from loralab.adapters.loha import LoHa
from loralab.adapters.lokr import LoKr
from loralab.adapters.lora import LoRA
from loralab.errors import user_error

KINDS: tuple[type[Method], ...] = (LoRA, DoRA, LoHa, LoKr)


@dataclass(frozen=True, slots=True)
class Group:
    """One module's adapter, as a file has it."""

    kind: type[Method]
    tensors: dict[str, Tensor]
    """Without alpha."""
    alpha: float

    @property
    def rank(self) -> int | None:
        return self.kind.rank_of(self.tensors)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank if self.rank else 1.0

    @property
    def shape(self) -> torch.Size:
        """Of the weight that it changes, a kernel perhaps folded into the inputs."""
        return self.kind.shape_of(self.tensors)

    def change(self, shape: torch.Size, weight: Tensor | None = None) -> Tensor:
        """What it adds to a weight of this shape; the weight itself is needed where `needs_weight`."""
        return change(self.kind, self.tensors, self.scale, shape, weight)

    @property
    def norm(self) -> float:
        """The Frobenius norm of the change, the direction's where a magnitude is beside it."""
        return float(self.kind.norm({name: t.float() for name, t in self.tensors.items()})) * abs(self.scale)

    @property
    def needs_weight(self) -> bool:
        return "dora_scale" in self.tensors


def suffix(tensor: str) -> str:
    """lora_down → lora_down.weight: how a file's key ends."""
    return f"{tensor}.weight" if tensor.startswith("lora_") else tensor


def grouped(state: Mapping[str, Tensor], setting: str = "adapter.weights") -> dict[str, Group]:
    """The adapters of a file of the kohya layout by module name.

    A missing alpha is the rank, a scale of 1. Raises a UserError that lists what is no part of any adapter known here,
    or that don't fit together.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name, _, rest = key.partition(".")
        modules.setdefault(name, {})[rest.removesuffix(".weight")] = tensor
    groups, strange = {}, []
    for name, tensors in modules.items():
        alpha = tensors.pop("alpha", None)
        if alpha is not None and alpha.numel() != 1:
            found = f"{name}.alpha has the shape {tuple(alpha.shape)}, and is no number"
            raise user_error(setting, found, "the file is damaged, or of a kind that is not known here")
        kind = kind_of(tensors)
        if kind is None:
            strange += [key for key in state if key.partition(".")[0] == name]
            continue
        groups[name] = Group(kind, tensors, _alpha(alpha, kind, tensors))
        try:
            _ = groups[name].shape
        except (RuntimeError, IndexError) as error:
            shapes = {n: tuple(t.shape) for n, t in tensors.items()}
            remedy = "the file is damaged, or of a kind that is not known here"
            raise user_error(setting, f"the tensors of {name} don't fit together: {shapes}", remedy) from error
    if strange:
        found = f"{len(strange)} keys are of no known adapter: {some(strange)}"
        raise user_error(setting, found, "LoRA, LoCon, LoHa, LoKr and DoRA files can be read")
    if not groups:
        raise user_error(setting, "holds no adapter", "choose a LoRA, LoCon, LoHa, LoKr or DoRA file")
    return groups


def kind_of(tensors: Mapping[str, Tensor]) -> type[Method] | None:
    """The kind that these tensors make up; any may have a magnitude beside it (`dora_scale`)."""
    for names in (set(tensors), set(tensors) - {"dora_scale"}):
        for kind in KINDS:
            if kind.recognises(names):
                return kind
    return None


def _alpha(alpha: Tensor | None, kind: type[Method], tensors: Mapping[str, Tensor]) -> float:
    return float(alpha) if alpha is not None else float(kind.rank_of(tensors) or 1)


def some(names: list[str], most: int = 8) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
