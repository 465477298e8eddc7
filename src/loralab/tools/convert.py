"""`loralab convert`: an adapter in another layout, format or precision."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from loralab.adapters import file
from loralab.tools import adapter


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="an adapter file of any layout and format")
    parser.add_argument("--layout", choices=["kohya", "diffusers"], default="kohya")
    adapter.add_output(parser)


def main(args: Namespace) -> None:
    path = adapter.check_output(args)
    source = file.load(args.file, setting="FILE")
    precision = args.precision or adapter.precision_of(source.state)
    state = adapter.layout_state(source.state, args.layout)
    told = {key: value for key, value in source.metadata.items() if not key.startswith(("sshs_", "lora_adapter"))}
    file.save(path, state, told or None, precision)
    print(f"{path}: {len(state)} tensors, {args.layout} layout, {precision}")
