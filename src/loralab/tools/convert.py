"""`loralab convert`: an adapter in another layout, format or precision."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import get_args

from loralab.adapters import layouts
from loralab.files import printable
from loralab.models.registry import of_adapter
from loralab.tools import adapter


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="an adapter file of any layout and format")
    parser.add_argument("--layout", choices=get_args(layouts.Layout), default="kohya")
    adapter.add_output(parser)
    adapter.add_allow(parser)


def main(args: Namespace) -> None:
    path = adapter.check_output(args)
    source = adapter.load(args.file, args.allow)
    metadata = adapter.lasting(source.metadata)
    state = source.state
    if args.layout == "diffusers":
        metadata |= layouts.folded_alphas(state)
        state = layouts.to_diffusers(source.groups, of_adapter(state).table)
    elif args.layout == "comfyui":
        state = layouts.to_comfyui(state, of_adapter(state).table)
    adapter.save(path, state, metadata or None, args.precision)
    precision = args.precision or adapter.precision_of(state)
    print(f"{printable(str(path))}: {len(state)} tensors, {args.layout} layout, {precision}")
