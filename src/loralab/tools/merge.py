"""`loralab merge`: adapters into a base model, or several adapters into one."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from loralab.adapters.file import Precision
from loralab.adapters.kinds import Group, fits, some
from loralab.adapters.low_rank import RankLimit, concatenated, spectrum_of
from loralab.errors import user_error
from loralab.files import printable
from loralab.models.registry import named
from loralab.progress import progress
from loralab.tools import adapter
from loralab.tools.base_model import BaseModel, open_base

Adapters = Sequence[Mapping[str, Group]]


def merged_into_base(
    base: BaseModel, adapters: Adapters, weights: Sequence[float], precision: Precision | None = None
) -> None:
    """Adds each adapter's changes, times its factor, to the base weights; each is computed from the original weight."""
    targets = {target.kohya: (part, target) for part in base.table for target in base.table[part]}
    names = sorted({name for groups in adapters for name in groups})
    with progress("merging", len(names), "layers") as advance:
        for name in names:
            part, target = targets[name]
            weight = base.weight(part, target).float()
            change = torch.zeros_like(weight)
            for groups, factor in zip(adapters, weights, strict=True):
                if name in groups:
                    change += factor * _fitting(name, groups[name], weight)
            base.add(part, target, change, precision)
            advance(1)


def merged(
    adapters: Adapters, weights: Sequence[float], size: RankLimit | None, device: torch.device = adapter.CPU
) -> dict[str, Group]:
    """Several adapters as one: exact, with the sum of their ranks, or the best approximation of a given size.

    Raises a UserError for adapters that cannot be merged without the base model, or not exactly.
    """
    names = sorted({name for groups in adapters for name in groups})
    out = {}
    with progress("merging", len(names), "layers") as advance:
        for name in names:
            parts = [(g[name], w) for g, w in zip(adapters, weights, strict=True) if name in g]
            groups, factors = [group for group, _ in parts], [weight for _, weight in parts]
            _check_addable(name, groups, exact=size is None)
            if size is None:
                out[name] = concatenated(groups, factors)
            else:
                shape = adapter.shape_of(name, groups[0])
                changes = [w * group.change(shape) for group, w in parts]
                out[name] = spectrum_of(torch.stack(changes).sum(0).to(device), name).lora(size)
            advance(1)
    return out


def _check_addable(name: str, groups: list[Group], exact: bool) -> None:
    if bound := [group.kind.__name__ for group in groups if group.kind.needs_weight]:
        raise user_error(
            "FILE", f"{name} is a {bound[0]}, which needs the base model", "merge it into one: --base MODEL"
        )
    if exact and not all(group.is_plain_lora for group in groups):
        raise user_error("FILE", f"{name} is not a plain LoRA and cannot be merged exactly", "give --rank or --keep")
    if len({group.shape.numel() for group in groups}) > 1:
        shapes = [tuple(group.shape) for group in groups]
        raise user_error("FILE", f"{name} has different shapes: {shapes}", "merge adapters of the same family")


def _fitting(name: str, group: Group, weight: torch.Tensor) -> torch.Tensor:
    if not fits(group.shape, weight.shape):
        found = f"{name} belongs to a weight of shape {tuple(group.shape)}; that of the base is {tuple(weight.shape)}"
        raise user_error("FILE", found, f"give a base of the adapter's own family ({named()})")
    return group.change(weight.shape, weight)


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("files", metavar="FILE", nargs="+", help="adapter files of any kind and layout")
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="a factor for each file (default: 1)")
    parser.add_argument("--base", type=Path, metavar="MODEL", help="base model to merge into, folder or file")
    adapter.add_size(parser)
    adapter.add_output(parser, "an adapter file; with --base, a folder or a .safetensors file, like the base")
    adapter.add_allow(parser)


def main(args: Namespace) -> None:
    weights = args.weights or [1.0] * len(args.files)
    if len(weights) != len(args.files):
        raise user_error("--weights", f"{len(weights)} weights for {len(args.files)} files", "give one for each file")
    if not all(map(math.isfinite, weights)):
        raise user_error("--weights", f"{weights} are not all finite numbers", "give numbers such as 0.8")
    if args.base:
        _into_base(args, weights)
    elif len(args.files) < 2:
        raise user_error("FILE", "only one adapter, and no base model", "give --base MODEL, or a second adapter")
    else:
        _into_one(args, weights)


def _into_base(args: Namespace, weights: list[float]) -> None:
    if args.rank or args.keep:
        raise user_error("--rank, --keep", "cannot be combined with --base", "remove them: this merge is exact")
    base = open_base(args.base, "--base")
    path = adapter.check_output(args, () if base.path.is_dir() else ("safetensors",))
    adapters = [adapter.load(name, args.allow, base.table).groups for name in args.files]
    merged_into_base(base, adapters, weights, args.precision)
    base.save(path, args.precision)
    print(f"{printable(str(path))}: {sum(map(len, adapters))} changes merged into {base.path.name}")


def _into_one(args: Namespace, weights: list[float]) -> None:
    size = RankLimit(args.rank, args.keep) if args.rank or args.keep else None
    path = adapter.check_output(args)
    sources = [adapter.load(name, args.allow) for name in args.files]
    groups = merged([source.groups for source in sources], weights, size, args.device)
    described = {"ss_training_comment": f"merged: {some([Path(name).name for name in args.files])}"}
    adapter.write(path, groups, args.precision or adapter.precision_of(sources[0].state), described)
    print(
        f"{printable(str(path))}: {len(groups)} layers, ranks up to {max(group.rank or 0 for group in groups.values())}"
    )
