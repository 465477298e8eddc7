"""What `speed.compile` needs, and what it cannot be combined with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from shutil import which

from loralab.checks.devices import on_cpu
from loralab.errors import Problem
from loralab.schema.tree import Tree, get

SETTING = "speed.compile"
OFF = "set speed.compile=false"
COMPILERS = ("g++", "clang++", "c++", "cl")


def combination_problems(tree: Tree) -> Iterator[Problem]:
    """Settings that contradict it."""
    if not get(tree, SETTING):
        return
    if get(tree, "trainer.strategy") == "fsdp":
        found = "true cannot be combined with trainer.strategy=fsdp: a block's weights are shared out"
        yield Problem(SETTING, found, f"{OFF}, or trainer.strategy=ddp")


def machine_problems(tree: Tree) -> Iterator[Problem]:
    """What this machine lacks."""
    if not get(tree, SETTING):
        return
    if on_cpu(tree) and not _has_compiler():
        yield Problem(SETTING, "needs a C++ compiler, but none was found", f"install g++, or name one in CXX; or {OFF}")
    if not on_cpu(tree) and find_spec("triton") is None:
        packages = "pip install triton (on Windows: triton-windows)"
        yield Problem(SETTING, "needs Triton on a GPU, but it is not installed", f"{packages}; or {OFF}")


def _has_compiler() -> bool:
    named = os.environ.get("CXX")
    return any(which(name) for name in ([named] if named else COMPILERS))
