"""What `speed.compile` needs, and what it cannot be combined with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from shutil import which
from typing import Any

from loralab.checks.devices import on_cpu
from loralab.errors import Problem
from loralab.schema.tree import Tree, get

SETTING = "speed.compile"
OFF = "set speed.compile=false"
COMPILERS = ("g++", "clang++", "c++", "cl")


def combination_problems(tree: Tree) -> Iterator[Problem]:
    """Settings that contradict it."""
    if not (way := get(tree, SETTING)):
        return
    valid: dict[str, tuple[tuple[Any, ...], str, str]] = {
        "trainer.strategy": (("auto", "ddp"), "a block's weights are shared out", "ddp")
    }
    if way == "graphs":
        valid |= {
            "model.offload": ((None, 0), "a graph reads weights where they were", "0"),
            "model.quantize": ((None, "fp8", "int8"), "a graph reads weights where they were", "int8"),
            "model.gradient_checkpointing": ((None, False), "a graph keeps its activations until backward", "false"),
            "trainer.accumulate_grad_batches": ((None, 1), "the next batch overwrites a graph's gradients", "1"),
        }
    for setting, (values, why, remedy) in valid.items():
        if (value := get(tree, setting)) not in values:
            found = f"{str(way).lower()} cannot be combined with {setting}={str(value).lower()}: {why}"
            yield Problem(SETTING, found, f"{OFF}, or {setting}={remedy}")


def machine_problems(tree: Tree) -> Iterator[Problem]:
    """What this machine lacks."""
    if not (way := get(tree, SETTING)):
        return
    if way == "graphs" and on_cpu(tree):
        yield Problem(SETTING, "graphs needs a GPU: CUDA graphs", "set speed.compile=true, or false")
    if on_cpu(tree) and not _has_compiler():
        yield Problem(SETTING, "needs a C++ compiler, but none was found", f"install g++, or name one in CXX; or {OFF}")
    if not on_cpu(tree) and find_spec("triton") is None:
        packages = "pip install triton (on Windows: triton-windows)"
        yield Problem(SETTING, "needs Triton on a GPU, but it is not installed", f"{packages}; or {OFF}")


def _has_compiler() -> bool:
    named = os.environ.get("CXX")
    return any(which(name) for name in ([named] if named else COMPILERS))
