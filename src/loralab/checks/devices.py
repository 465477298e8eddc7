"""Settings that the machine's devices do not support."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from loralab.errors import Problem, invalid
from loralab.gpus import has_accelerator, nvidia_count, unused_gpu
from loralab.schema.tree import Tree, get

CLUSTER = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_PORT")
"""Environment variables, one of which is set when other machines take part."""

DEVICES = "a number of devices; a list of device indices, such as [0,1]; auto; -1 for every GPU"
LEAST_WORKERS = 32
"""This many loader processes are allowed on any machine."""


def device_problems(tree: Tree) -> Iterator[Problem]:
    """Problems of a composed configuration."""
    wanted, remedy = str(get(tree, "trainer.accelerator")), "set trainer=default, which picks an available device"
    if wanted in ("gpu", "cuda") and not has_accelerator():
        yield Problem("trainer.accelerator", *(unused_gpu() or ("no GPU found on this machine", remedy)))
    if wanted == "mps" and sys.platform != "darwin":
        yield Problem("trainer.accelerator", "mps is only available on a Mac", remedy)
    yield from _devices(get(tree, "trainer.devices"), on_cpu(tree))
    yield from _machines(get(tree, "trainer.num_nodes"))
    yield from _workers(get(tree, "data.num_workers"))
    if not on_cpu(tree):
        return
    if get(tree, "trainer.precision") == "16-mixed":
        yield Problem("trainer.precision", "16-mixed needs a GPU", "use bf16-mixed or 32-true on a CPU")
    if get(tree, "model.attention") == "xformers":
        yield Problem(
            "model.attention", "xformers needs a GPU", "set model.attention=auto, which picks the fastest available"
        )
    if ".Paged" in str(get(tree, "optimizer._target_")):
        yield Problem("optimizer", "a paged optimizer needs a GPU", "on a CPU use an unpaged one: optimizer=adamw8bit")


def device_notes(tree: Tree) -> Iterator[str]:
    """Notes about a device that was picked automatically, and on what has no effect there."""
    if get(tree, "trainer.accelerator") == "auto" and (unused := unused_gpu()):
        yield f"training on the CPU: {unused[0]}\n    → {unused[1]}"
    if get(tree, "model.offload") and on_cpu(tree):
        yield "model.offload has no effect on a CPU, where the weights are already"


def on_cpu(tree: Tree) -> bool:
    """Whether training will run on the CPU."""
    accelerator = get(tree, "trainer.accelerator")
    return accelerator == "cpu" or (accelerator == "auto" and not has_accelerator())


def _devices(value: Any, cpu: bool) -> Iterator[Problem]:
    many = _count(value)
    if many is None:
        yield invalid("trainer.devices", value, DEVICES)
    elif cpu and many == -1:
        remedy = "set trainer.devices=2 for two processes on the CPU"
        yield Problem("trainer.devices", "-1 means every GPU, but no GPU was found", remedy)
    elif cpu and (isinstance(value, list) or "," in str(value)):
        yield invalid("trainer.devices", value, "a number of processes (on a CPU)")
    else:
        there = (os.cpu_count() or 1) if cpu else _visible_gpus()
        if there and many > there:
            found = f"invalid value {many}: this machine has {there} {'processor cores' if cpu else 'GPUs'}"
            yield Problem("trainer.devices", found, f"valid: at most {there}")


def _count(value: Any) -> int | None:
    """The number of devices that a value asks for, -1 for all of them; None where it is invalid."""
    if isinstance(value, str):
        if value == "auto":
            return 1
        numbers = value.strip().strip(",").split(",")
        if not all(re.fullmatch(r"\s*-?\d{1,4}\s*", number) for number in numbers):
            return None
        value = int(numbers[0]) if "," not in value else [int(number) for number in numbers]
    if isinstance(value, list):
        plain = all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in value)
        return len(value) if value and plain and len(set(value)) == len(value) else None
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if value == -1 or value > 0 else None


def _visible_gpus() -> int:
    """0 where only torch could find out."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(visible.split(",")) if visible else nvidia_count()


def _machines(count: Any) -> Iterator[Problem]:
    if isinstance(count, int) and count > 1 and not any(os.environ.get(name) for name in CLUSTER):
        found = f"{count} machines, but this process was started alone and would wait for the others forever"
        yield Problem(
            "trainer.num_nodes", found, "start it on every machine with torchrun or SLURM, or set trainer.num_nodes=1"
        )


def _workers(count: Any) -> Iterator[Problem]:
    most = max(LEAST_WORKERS, 4 * (os.cpu_count() or 1))
    if isinstance(count, int) and count > most:
        found = f"invalid value {count}: too many loader processes for this machine"
        yield Problem("data.num_workers", found, f"valid: at most {most}; one per core ({os.cpu_count()}) is enough")
