"""Any change of a weight as a LoRA: the best one of a rank, by singular values (Eckart and Young)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from loralab.adapters.kinds import Group, suffix
from loralab.adapters.lora import LoRA
from loralab.errors import user_error


@dataclass(frozen=True, slots=True)
class RankLimit:
    """How large a LoRA may be: a rank, or the share of the change's norm to keep (0 to 1), or the smaller of both."""

    rank: int | None = None
    keep: float | None = None

    def of(self, singular: Tensor) -> int:
        """The rank for singular values in falling order."""
        rank = len(singular) if self.rank is None else min(self.rank, len(singular))
        if self.keep is not None:
            reached = singular.square().cumsum(0).sqrt() >= self.keep * singular.norm() * (1 - 1e-6)
            rank = min(rank, int(reached.int().argmax()) + 1)
        return max(rank, 1)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """A change taken apart: left (out, n) · singular (n) · right (n, in·kh·kw)."""

    left: Tensor
    singular: Tensor
    right: Tensor
    shape: torch.Size
    """Of the weight that is changed."""

    def lora(self, size: RankLimit) -> Group:
        """The LoRA of this size that is nearest, of scale 1, its factors of equal norm."""
        rank = size.of(self.singular)
        root = self.singular[:rank].sqrt()
        up, down = self.left[:, :rank] * root, root[:, None] * self.right[:rank]
        kernel = self.shape[2:]
        tensors = {
            "lora_down": down.reshape(rank, *self.shape[1:]).contiguous(),
            "lora_up": up.reshape(-1, rank, *(1 for _ in kernel)).contiguous(),
        }
        return Group(LoRA, tensors, float(rank))


def spectrum_of(delta: Tensor, name: str) -> Spectrum:
    """Of a change in the weight's shape; `name`: the module's, for what goes wrong."""
    left, singular, right = _svd(delta.float().flatten(1), name)
    return Spectrum(left, singular, right, delta.shape)


def spectrum_of_group(group: Group, shape: torch.Size, name: str) -> Spectrum:
    """Of what a file's adapter does to a weight of this shape, without a magnitude beside it.

    For a LoRA by way of its factors, which are small.
    """
    tensors = {name: t.float() for name, t in group.factors.items()}
    if not group.is_plain_lora:
        return spectrum_of((group.kind.delta(tensors) * group.scale).reshape(shape), name)
    up, down = tensors["lora_up"].flatten(1), tensors["lora_down"].flatten(1)
    (q_up, r_up), (q_down, r_down) = torch.linalg.qr(up), torch.linalg.qr(down.T)
    left, singular, right = _svd(r_up @ r_down.T * group.scale, name)
    return Spectrum(q_up @ left, singular, right @ q_down.T, shape)


def _svd(matrix: Tensor, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """The thin singular value decomposition; with 64 bits where 32 don't converge.

    Raises a UserError where the matrix has values too large for its numbers.
    """
    for precision in (torch.float32, torch.float64):
        try:
            parts = torch.linalg.svd(matrix.to(precision), full_matrices=False)
        except RuntimeError:  # torch.linalg.LinAlgError
            continue
        left, singular, right = (part.to(matrix.dtype) for part in parts)
        if all(part.isfinite().all() for part in (left, singular, right)):
            return left, singular, right
    found = f"the singular values of {name} could not be computed: its values are too large or not finite"
    raise user_error("FILE", found, "use an earlier file: its training failed")


def concatenated(groups: list[Group], weights: list[float]) -> Group:
    """Several LoRAs on one module as one, exactly: their sum, each times its weight. Its rank is the sum of theirs."""
    downs = [g.tensors["lora_down"].float() for g in groups]
    ups = [g.tensors["lora_up"].float() * g.scale * w for g, w in zip(groups, weights, strict=True)]
    tensors = {"lora_down": torch.cat(downs, 0), "lora_up": torch.cat(ups, 1)}
    return Group(LoRA, tensors, float(sum(d.shape[0] for d in downs)))


def state_of(groups: dict[str, Group]) -> dict[str, Tensor]:
    """Adapters by module name as the tensors of a file of the kohya layout."""
    state = {}
    for name, group in groups.items():
        state[f"{name}.alpha"] = torch.tensor(float(group.alpha))
        state |= {f"{name}.{suffix(tensor)}": value for tensor, value in group.tensors.items()}
    return state
