"""Which kind of adapter the tensors of a file are, and what they do to a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loralab.adapters import boft, dora, ia3, oft_v2  # noqa: F401  # all kinds of our own
from loralab.adapters.base import METHODS, Method
from loralab.adapters.keys import AMBIGUOUS, NO_MODULE, NOT_SUPPORTED, strangeness
from loralab.adapters.lora import LoRA
from loralab.errors import Problem
from loralab.packages import is_own

LARGEST_ALPHA = 1e6
"""A larger one is never intended; where alpha has no effect (a LoKr without a rank), files have any."""

INCOMPLETE = "are an incomplete adapter"
UNKNOWN = "are tensors that no supported adapter has"
NOT_FLOATS = "are empty or not floating-point numbers"
NOT_FINITE = "have values that are not finite"
DAMAGED = "download or copy the file again: it is damaged, or of an unsupported kind"
REMEDIES = {
    UNKNOWN: "use a LoRA, LoCon, LoHa, LoKr, DoRA, OFT or IA3: without these keys it would be a different adapter",
    NO_MODULE: "use the base model that the file was made for, if it is a Stable Diffusion",
    AMBIGUOUS: "put PEFT's adapter_config.json beside the file: its auto_mapping says which",
    NOT_FINITE: "use an earlier file: its training failed",
}


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
        """What it adds to a weight of this shape; the weight itself is needed where the kind `needs_weight`."""
        return self.kind.change(self.tensors, self.scale, shape, weight)

    @property
    def factors(self) -> dict[str, Tensor]:
        """The tensors that the change is made of, without a magnitude beside them."""
        return self.kind.factors(self.tensors)

    @property
    def is_plain_lora(self) -> bool:
        """Whether the change is the product of two matrices."""
        return self.kind.delta is LoRA.delta and self.factors.keys() == LoRA.required

    @property
    def norm(self) -> float:
        """The Frobenius norm of the change, the direction's where a magnitude is beside it."""
        return float(self.kind.norm({name: t.float() for name, t in self.tensors.items()})) * abs(self.scale)

    @property
    def is_dead(self) -> bool:
        """Whether no step could change what it does: the change is a product of which two factors are zero."""
        zero = [name for name, tensor in self.factors.items() if not tensor.any()]
        return len(zero) > max(1, len(self.kind.starts_at_zero & self.tensors.keys()))


def suffix(tensor: str) -> str:
    """lora_down → lora_down.weight: how a file's key ends."""
    return f"{tensor}.weight" if tensor.startswith("lora_") or tensor == "oft_R" else tensor


def fits(change: torch.Size, weight: torch.Size) -> bool:
    """Whether a weight of this shape can be changed so, a kernel perhaps folded into the inputs."""
    outer, inner = (change[0], change[1:].numel()), (weight[0], weight[1:].numel())
    return all(own in (0, wanted) for own, wanted in zip(outer, inner, strict=True))


Faults = dict[str, list[str]]
"""What is wrong with keys → those keys. Reads on from "3 of 400 keys …"."""


def sort_out(state: Mapping[str, Tensor], values: bool = True) -> tuple[dict[str, Group], Faults]:
    """The adapters of a state of the kohya layout by module name, and what cannot be used of it.

    `values`: whether the numbers are checked, which reads all of them.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in state.items():
        name, _, rest = key.partition(".")
        modules.setdefault(name, {})[rest.removesuffix(".weight")] = tensor
    groups: dict[str, Group] = {}
    faults: Faults = {}
    for name, tensors in modules.items():
        alpha = tensors.pop("alpha", None)
        kind = kind_of(tensors)
        for fault, names in _faults(kind, tensors, alpha, values).items():
            faults.setdefault(fault, []).extend(f"{name}.{suffix(tensor)}" for tensor in names)
            kind = None
        if kind is not None:
            groups[name] = Group(kind, *kind.from_file(tensors, None if alpha is None else float(alpha)))
    return groups, faults


def problems_of(faults: Faults, total: int, setting: str, module: str = "") -> Iterator[Problem]:
    """module: what the file names as its `ss_network_module`."""
    for fault, keys in faults.items():
        remedy = REMEDIES[UNKNOWN] if fault.endswith(NOT_SUPPORTED) else REMEDIES.get(fault, DAMAGED)
        if fault == UNKNOWN and is_own(module):
            trained = f"for training adapter._target_={module} allow=[{module}]"
            remedy = f"it is a {module}: if you trust that class, add --allow {module} ({trained})"
        yield Problem(setting, f"{len(keys)} of {total} keys {fault}: {some(keys)}", remedy)


def _faults(kind: type[Method] | None, tensors: Mapping[str, Tensor], alpha: Tensor | None, values: bool) -> Faults:
    """What is wrong with one module's tensors; by their names."""
    numbers = {**(tensors if values else {}), **({} if alpha is None else {"alpha": alpha})}
    if kind is None:
        strange = {name: strangeness(f".{suffix(name)}") for name in tensors}
        known = {fault: [n for n in strange if strange[n] == fault] for fault in strange.values() if fault != NO_MODULE}
        odd = [name for name in tensors if not any(name in kind.required | kind.optional for kind in METHODS)]
        return known or ({UNKNOWN: odd} if odd else {INCOMPLETE: list(tensors)})
    floats = {name: tensor for name, tensor in tensors.items() if name not in kind.flags}
    if wrong := [name for name, tensor in floats.items() if not tensor.is_floating_point() or not tensor.numel()]:
        return {NOT_FLOATS: wrong}
    if wrong := [name for name, tensor in numbers.items() if not tensor.isfinite().all()]:
        return {NOT_FINITE: wrong}
    if alpha is not None and (alpha.numel() != 1 or alpha.is_complex()):
        return {f"are alphas of shape {tuple(alpha.shape)}, not a single number": ["alpha"]}
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    try:
        shape, rank = kind.shape_of(tensors), kind.rank_of(tensors)
    except (RuntimeError, IndexError):
        shape, rank = torch.Size(), None
    if len(shape) not in (2, 4):
        return {f"have incompatible shapes ({shapes})": list(tensors)}
    if rank and alpha is not None and abs(float(alpha)) > LARGEST_ALPHA:
        return {f"are implausibly large alphas ({float(alpha):g})": ["alpha"]}
    return {}


def named(import_path: str) -> type[Method] | None:
    """The kind of this name, of those that are imported."""
    return next((kind for kind in METHODS if kind.import_path() == import_path), None)


def kind_of(tensors: Mapping[str, Tensor]) -> type[Method] | None:
    """The kind that these tensors make up."""
    return next((kind for kind in METHODS if kind.recognises(tensors)), None)


def some(names: list[str], most: int = 8) -> str:
    """The first few of many names."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
