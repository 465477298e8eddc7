"""`loralab extract`: an adapter from the difference of two models."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch

from loralab.adapters.kinds import Group
from loralab.adapters.low_rank import Size, spectrum_of
from loralab.errors import user_error
from loralab.models.names import Target
from loralab.progress import progress
from loralab.tools import adapter
from loralab.tools.base_model import BaseModel, open_base

NOISE = 1e-6
"""Changes whose largest element is below this are rounding."""


def extracted(
    base: BaseModel, tuned: BaseModel, size: Size, conv: bool, device: torch.device = adapter.CPU
) -> dict[str, Group]:
    """A LoRA for each module whose weight differs. `conv`: those of residual blocks and resamplers, too."""
    chosen = [(part, t) for part in base.table for t in base.table[part] if conv or t.kind != "conv"]
    groups = {}
    with progress("extracting", len(chosen), "layers") as advance:
        for part, target in chosen:
            change = _difference(base, tuned, part, target)
            if change.abs().max() > NOISE:
                groups[target.kohya] = _on_cpu(spectrum_of(change.to(device)).lora(size))
            advance(1)
    return groups


def _difference(base: BaseModel, tuned: BaseModel, part: str, target: Target) -> torch.Tensor:
    before, after = base.weight(part, target), tuned.weight(part, target)
    if before.numel() != after.numel():
        found = f"{target.kohya}: {tuple(after.shape)} in one model, {tuple(before.shape)} in the other"
        raise user_error("TUNED", found, "compare two models of one architecture")
    coarse = min(before.dtype, after.dtype, key=lambda dtype: dtype.itemsize)  # else rounding would be extracted
    return after.reshape(before.shape).to(coarse).float() - before.to(coarse).float()


def _on_cpu(group: Group) -> Group:
    return Group(group.kind, {name: tensor.cpu() for name, tensor in group.tensors.items()}, group.alpha)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("base", metavar="BASE", type=Path, help="the model to start from: a folder or a single file")
    parser.add_argument("tuned", metavar="TUNED", type=Path, help="the model whose difference is wanted")
    parser.add_argument("--conv", action="store_true", help="convolutions, too")
    adapter.add_size(parser)
    adapter.add_output(parser)


def main(args: Namespace) -> None:
    size, path = adapter.size(args), adapter.check_output(args)
    base, tuned = open_base(args.base, "BASE"), open_base(args.tuned, "TUNED")
    if base.family != tuned.family:
        raise user_error("TUNED", f"is {tuned.family}, BASE is {base.family}", "compare two models of one family")
    groups = extracted(base, tuned, size, args.conv, args.device)
    if not groups:
        raise user_error("TUNED", "does not differ from BASE", "nothing to extract")
    adapter.write(path, groups, args.precision or "fp16")
    print(f"{path}: {len(groups)} layers, ranks up to {max(group.rank or 0 for group in groups.values())}")
