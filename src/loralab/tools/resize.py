"""`loralab resize`: an adapter at another rank, by the singular values of each change."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

import torch

from loralab.adapters.dora import DoRA, WeightDecomposed
from loralab.adapters.kinds import Group
from loralab.adapters.low_rank import RankLimit, spectrum_of_group
from loralab.errors import user_error
from loralab.files import printable
from loralab.progress import progress
from loralab.tools import adapter


def resized(groups: Mapping[str, Group], size: RankLimit, device: torch.device = adapter.CPU) -> dict[str, Group]:
    """Each adapter as the LoRA of that size that approximates it best; DoRA magnitudes are kept."""
    out = {}
    with progress("resizing", len(groups), "layers") as advance:
        for name, group in groups.items():
            if group.kind.needs_weight and not issubclass(group.kind, WeightDecomposed):
                found = f"{name} is a {group.kind.__name__}, whose change depends on the base model"
                raise user_error("FILE", found, "merge it into one: loralab merge --base MODEL")
            moved = Group(group.kind, {n: t.to(device) for n, t in group.tensors.items()}, group.alpha)
            out[name] = spectrum_of_group(moved, adapter.shape_of(name, group), name).lora(size)
            if issubclass(group.kind, WeightDecomposed):
                magnitude = {n: t for n, t in group.tensors.items() if n not in group.factors}
                out[name] = Group(DoRA, {**out[name].tensors, **magnitude}, out[name].alpha)
            advance(1)
    return out


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="an adapter file of any kind and layout; the result is a LoRA")
    adapter.add_size(parser)
    adapter.add_output(parser)
    adapter.add_allow(parser)


def main(args: Namespace) -> None:
    size, path = adapter.size(args), adapter.check_output(args)
    source = adapter.load(args.file, args.allow)
    groups = source.groups
    small = resized(groups, size, args.device)
    adapter.write(path, small, args.precision or adapter.precision_of(source.state), source.metadata)
    before, after = (sum(group.rank or 0 for group in g.values()) / len(g) for g in (groups, small))
    kept = sum(g.norm**2 for g in small.values()) / max(sum(g.norm**2 for g in groups.values()), 1e-30)
    print(f"{printable(str(path))}: mean rank {before:.1f} → {after:.1f}, {kept**0.5:.2%} of the norm kept")
