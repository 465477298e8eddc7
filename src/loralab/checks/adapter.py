"""Checks of the adapter file to start from and of the output layout, before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loralab.errors import Problem, UserError
from loralab.models.checkpoint import examine
from loralab.schema.tree import Tree, get
from loralab.schema.trusted import OURS


def adapter_problems(tree: Tree) -> Iterator[Problem]:
    """A class of the user's own is not imported here, before the whole configuration is known to be valid."""
    weights, target = get(tree, "adapter.weights"), str(get(tree, "adapter._target_"))
    if isinstance(weights, str):
        yield from _file_problems(Path(weights).expanduser(), target)
    if get(tree, "output.layout") == "diffusers" and target.startswith(OURS):
        yield from _layout_problems(tree, target)
    if get(tree, "targets.loraplus_ratio") and target.startswith(OURS):
        yield from _loraplus_problems(target)


def _file_problems(path: Path, target: str) -> Iterator[Problem]:
    """Whether training can start from an adapter file."""
    try:
        if path.is_file():
            examine(path, "adapter.weights")  # fast: does not need torch
        if target.startswith(OURS) or not path.is_file():
            from loralab.adapters.file import load
            from loralab.adapters.inject import check_start
            from loralab.adapters.kinds import named

            found, method = load(path), named(target)
            if method is not None:
                check_start(found.groups, method)
    except UserError as error:
        yield from error.problems


def _loraplus_problems(target: str) -> Iterator[Problem]:
    from loralab.adapters.kinds import named

    method = named(target)
    if method is not None and not method.starts_at_zero:
        found = f"has no effect: no tensor of {method.__name__} starts at 0"
        yield Problem("targets.loraplus_ratio", found, "set targets.loraplus_ratio=null, or adapter=lora")


def _layout_problems(tree: Tree, target: str) -> Iterator[Problem]:
    from loralab.adapters.kinds import named

    method = named(target)
    if method is not None and not method.in_diffusers:
        found = f"diffusers does not support {method.__name__}"
        yield Problem("output.layout", found, "set output.layout=kohya, or adapter=lora")
    elif get(tree, "adapter.magnitude") == "input":
        remedy = "set output.layout=kohya, or adapter.magnitude=output"
        yield Problem("output.layout", "diffusers supports DoRA magnitudes per output only, not per input", remedy)
