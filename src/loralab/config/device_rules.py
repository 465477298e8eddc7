"""What the device cannot do."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from typing import Any

from loralab.config.gpus import has_accelerator, nvidia_count, unused_gpu
from loralab.config.tree import Tree, get
from loralab.errors import Problem, invalid

CLUSTER = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_PORT")
"""Variables one of which is set where other machines take part."""

DEVICES = "a number of devices; a list of their numbers, like [0,1]; auto; -1 for every GPU"
LEAST_WORKERS = 32
"""So many loader processes start on any machine."""


def device_problems(tree: Tree) -> Iterator[Problem]:
    """Of a composed configuration."""
    wanted, remedy = str(get(tree, "trainer.accelerator")), "trainer=default picks what is there"
    if wanted in ("gpu", "cuda") and not has_accelerator():
        yield Problem("trainer.accelerator", *(unused_gpu() or ("there is no GPU on this machine", remedy)))
    if wanted == "mps" and sys.platform != "darwin":
        yield Problem("trainer.accelerator", "mps is the GPU of a Mac", remedy)
    yield from _devices(get(tree, "trainer.devices"), on_cpu(tree))
    yield from _machines(get(tree, "trainer.num_nodes"))
    yield from _workers(get(tree, "data.num_workers"))
    if not on_cpu(tree):
        return
    if get(tree, "trainer.precision") == "16-mixed":
        yield Problem("trainer.precision", "16-mixed needs a GPU", "use bf16-mixed or 32-true on a CPU")
    if get(tree, "trainer.strategy") == "fsdp":
        yield Problem("trainer.strategy", "fsdp needs a GPU", "trainer.strategy=auto")
    if get(tree, "model.attention") == "xformers":
        yield Problem("model.attention", "xformers needs a GPU", "model.attention=auto takes what is fastest here")
    if ".Paged" in str(get(tree, "optimizer._target_")):
        yield Problem("optimizer", "a paged optimizer needs a GPU", "on a CPU take its plain kind: optimizer=adamw8bit")


def device_notes(tree: Tree) -> Iterator[str]:
    """What a user should know who did not ask for the device that is taken."""
    if get(tree, "trainer.accelerator") == "auto" and (unused := unused_gpu()):
        yield f"training on the CPU: {unused[0]}\n    → {unused[1]}"


def on_cpu(tree: Tree) -> bool:
    """Whether training will run on the CPU."""
    accelerator = get(tree, "trainer.accelerator")
    return accelerator == "cpu" or (accelerator == "auto" and not has_accelerator())


def _devices(value: Any, cpu: bool) -> Iterator[Problem]:
    many = _count(value)
    if many is None:
        yield invalid("trainer.devices", value, DEVICES)
    elif cpu and many == -1:
        remedy = "trainer.devices=2 for two processes on the CPU"
        yield Problem("trainer.devices", "-1 means every GPU, and there is none", remedy)
    elif cpu and (isinstance(value, list) or "," in str(value)):
        yield invalid("trainer.devices", value, "on a CPU a number of processes")
    else:
        there = (os.cpu_count() or 1) if cpu else _visible_gpus()
        if there and many > there:
            found = f"{many} are asked for; {'processor cores' if cpu else 'GPUs'} on this machine: {there}"
            yield Problem("trainer.devices", found, f"at most {there}")


def _count(value: Any) -> int | None:
    """How many devices a value means, -1 for all of them; None where it means nothing."""
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
    """0 where only torch could tell."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return len(visible.split(",")) if visible else nvidia_count()


def _machines(count: Any) -> Iterator[Problem]:
    if isinstance(count, int) and count > 1 and not any(os.environ.get(name) for name in CLUSTER):
        found = f"{count} machines are asked for, and this process was started alone: it would wait for the others"
        yield Problem("trainer.num_nodes", found, "start it on each with torchrun or SLURM, or set trainer.num_nodes=1")


def _workers(count: Any) -> Iterator[Problem]:
    most = max(LEAST_WORKERS, 4 * (os.cpu_count() or 1))
    if isinstance(count, int) and count > most:
        found = f"{count} loader processes are more than this machine can run"
        yield Problem("data.num_workers", found, f"at most {most}; {os.cpu_count()}, one for each core, is plenty")
