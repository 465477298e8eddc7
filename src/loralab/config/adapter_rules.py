"""What is wrong with an adapter to start from, or with the kind of one to end with, told before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from loralab.config.tree import Tree, get
from loralab.errors import Problem, UserError
from loralab.models.checkpoint import examine

NOT_IN_DIFFUSERS = ("LoHa", "LoKr")


def adapter_problems(tree: Tree) -> Iterator[Problem]:
    weights = get(tree, "adapter.weights")
    if isinstance(weights, str):
        yield from _file_problems(Path(weights).expanduser())
    if get(tree, "output.layout") == "diffusers":
        yield from _layout_problems(tree)


def _file_problems(path: Path) -> Iterator[Problem]:
    if not path.is_file():
        found = f"{path} is {'a folder' if path.is_dir() else 'not there'}"
        yield Problem("adapter.weights", found, "give the path of an adapter file")
        return
    try:
        examine(path, "adapter.weights")
    except UserError as error:
        yield from error.problems


def _layout_problems(tree: Tree) -> Iterator[Problem]:
    kind = str(get(tree, "adapter._target_")).rpartition(".")[2]
    if kind in NOT_IN_DIFFUSERS:
        yield Problem("output.layout", f"diffusers has no {kind}", "output.layout=kohya, or adapter=lora")
    elif get(tree, "adapter.magnitude") == "input":
        remedy = "output.layout=kohya, or adapter.magnitude=output"
        yield Problem("output.layout", "diffusers takes a magnitude for each output, not input", remedy)
