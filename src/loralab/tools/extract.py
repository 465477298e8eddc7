"""`loralab extract`: an adapter from the difference of two models."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch

from loralab.adapters.kinds import Group
from loralab.adapters.low_rank import RankLimit, spectrum_of
from loralab.errors import user_error
from loralab.files import printable
from loralab.models.target import Target
from loralab.progress import progress
from loralab.tools import adapter
from loralab.tools.base_model import BaseModel, open_base

NOISE = 1e-6
"""A change whose largest element is below this is a rounding error."""


def extracted(
    base: BaseModel, tuned: BaseModel, size: RankLimit, conv: bool, device: torch.device = adapter.CPU
) -> dict[str, Group]:
    """A LoRA for each module whose weight differs. `conv`: also convolutions of residual blocks and resamplers."""
    chosen = [(part, t) for part in base.table for t in base.table[part] if conv or t.kind != "conv"]
    groups = {}
    with progress("extracting", len(chosen), "layers") as advance:
        for part, target in chosen:
            change = _difference(base, tuned, part, target)
            if change is not None:
                groups[target.kohya] = _on_cpu(spectrum_of(change.to(device), target.kohya).lora(size))
            advance(1)
    return groups


def _difference(base: BaseModel, tuned: BaseModel, part: str, target: Target) -> torch.Tensor | None:
    """What was added to a weight; None where the two differ only by rounding."""
    before, after = base.weight(part, target), tuned.weight(part, target)
    if before.numel() != after.numel():
        found = f"{target.kohya}: {tuple(after.shape)} in one model, {tuple(before.shape)} in the other"
        raise user_error("TUNED", found, "give two models of the same architecture")
    after = after.reshape(before.shape)
    ours, theirs = _precision_of(before), _precision_of(after)
    before, after = before.float(), after.float()
    if ours != theirs and bool(((after - before).abs() <= _rounding(before, ours) + _rounding(after, theirs)).all()):
        return None
    coarse = max(ours, theirs, key=lambda dtype: torch.finfo(dtype).eps)  # else rounding would be extracted
    change = after.to(coarse).float() - before.to(coarse).float()
    return change if change.abs().max() > NOISE else None


def _precision_of(weight: torch.Tensor) -> torch.dtype:
    """The coarsest precision that holds all of its values exactly: a file may be stored in a wider one."""
    precisions = (torch.bfloat16, torch.float16)
    return next((dtype for dtype in precisions if torch.equal(weight.to(dtype).to(weight), weight)), weight.dtype)


def _rounding(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The largest rounding error of each value: half the spacing of that precision's numbers there."""
    kind = torch.finfo(dtype)
    exponent = torch.frexp(weight.abs().clamp(min=kind.tiny)).exponent
    return torch.ldexp(torch.full_like(weight, kind.eps / 4), exponent)


def _on_cpu(group: Group) -> Group:
    return Group(group.kind, {name: tensor.cpu() for name, tensor in group.tensors.items()}, group.alpha)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", type=Path, help="the original model: a folder or a single file")
    parser.add_argument("tuned", metavar="TUNED", type=Path, help="the fine-tuned model: a folder or a single file")
    parser.add_argument("--conv", action="store_true", help="also extract convolutions")
    adapter.add_size(parser)
    adapter.add_output(parser)


def main(args: Namespace) -> None:
    size, path = adapter.size(args), adapter.check_output(args)
    base, tuned = open_base(args.base, "BASE"), open_base(args.tuned, "TUNED")
    if base.row != tuned.row:
        found = f"is {tuned.row.title}, but BASE is {base.row.title}"
        raise user_error("TUNED", found, "give two models of the same family")
    groups = extracted(base, tuned, size, args.conv, args.device)
    if not groups:
        raise user_error("TUNED", "does not differ from BASE", "give a fine-tuned model: there is nothing to extract")
    adapter.write(path, groups, args.precision or "fp16")
    print(
        f"{printable(str(path))}: {len(groups)} layers, ranks up to {max(group.rank or 0 for group in groups.values())}"
    )
