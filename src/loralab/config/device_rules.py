"""What the device cannot do. Told by device files: importing torch to ask would take seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from loralab.config.tree import Tree, get
from loralab.errors import Problem


def device_problems(tree: Tree) -> Iterator[Problem]:
    """Of a composed configuration."""
    if get(tree, "trainer.accelerator") in ("gpu", "cuda") and not has_accelerator():
        yield Problem("trainer.accelerator", "there is no GPU on this machine", "trainer=default picks what is there")
    if not on_cpu(tree):
        return
    if get(tree, "trainer.precision") == "16-mixed":
        yield Problem("trainer.precision", "16-mixed needs a GPU", "use bf16-mixed or 32-true on a CPU")
    if get(tree, "trainer.devices") == -1:
        remedy = "trainer.devices=2 for two processes on the CPU"
        yield Problem("trainer.devices", "-1 means every GPU, and there is none", remedy)
    if get(tree, "model.attention") == "xformers":
        yield Problem("model.attention", "xformers needs a GPU", "model.attention=auto takes what is fastest here")
    if ".Paged" in str(get(tree, "optimizer._target_")):
        yield Problem("optimizer", "a paged optimizer needs a GPU", "on a CPU take its plain kind: optimizer=adamw8bit")


def on_cpu(tree: Tree) -> bool:
    """Whether training will run on the CPU."""
    accelerator = get(tree, "trainer.accelerator")
    return accelerator == "cpu" or (accelerator == "auto" and not has_accelerator())


def has_accelerator() -> bool:
    """Whether the machine has a GPU."""
    if sys.platform != "linux":
        return True  # torch decides, when it is loaded
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()
