"""Checks of the adapter file to start from and of the output layout, before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loralab.errors import Problem, UserError
from loralab.models.checkpoint import examine
from loralab.schema.tree import Tree, get

NOT_IN_DIFFUSERS = ("LoHa", "LoKr")


def adapter_problems(tree: Tree) -> Iterator[Problem]:
    weights = get(tree, "adapter.weights")
    if isinstance(weights, str):
        yield from _file_problems(Path(weights).expanduser(), _kind(tree))
    if get(tree, "output.layout") == "diffusers":
        yield from _layout_problems(tree)


def _kind(tree: Tree) -> str:
    return str(get(tree, "adapter._target_")).rpartition(".")[2]


def _file_problems(path: Path, kind: str) -> Iterator[Problem]:
    """Whether training can start from an adapter file."""
    try:
        if path.is_file():
            examine(path, "adapter.weights")  # fast: does not need torch
        from loralab.adapters.file import load
        from loralab.adapters.inject import check_start
        from loralab.adapters.kinds import KINDS

        found = load(path)
        for method in KINDS:
            if method.__name__ == kind:
                check_start(found.groups, method)
    except UserError as error:
        yield from error.problems


def _layout_problems(tree: Tree) -> Iterator[Problem]:
    kind = _kind(tree)
    if kind in NOT_IN_DIFFUSERS:
        yield Problem("output.layout", f"diffusers does not support {kind}", "set output.layout=kohya, or adapter=lora")
    elif get(tree, "adapter.magnitude") == "input":
        remedy = "set output.layout=kohya, or adapter.magnitude=output"
        yield Problem("output.layout", "diffusers supports DoRA magnitudes per output only, not per input", remedy)
