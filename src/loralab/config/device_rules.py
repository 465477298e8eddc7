"""What the device cannot do. Told by files: importing torch to ask would take seconds."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from loralab.config.tree import Tree, get
from loralab.errors import Problem, invalid

CLUSTER = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "LSB_JOBID", "OMPI_COMM_WORLD_SIZE", "KUBERNETES_PORT")
"""Variables one of which is set where other machines take part."""

UNUSED_GPU = "there is a GPU, but torch is installed without support for it"
WITH_CUDA = "reinstall torch with GPU support, as https://pytorch.org/get-started/locally says"
DEVICES = "a number of devices; a list of their numbers, like [0,1]; auto; -1 for every GPU"
LEAST_WORKERS = 32
"""So many loader processes start on any machine."""


def device_problems(tree: Tree) -> Iterator[Problem]:
    """Of a composed configuration."""
    wanted, remedy = str(get(tree, "trainer.accelerator")), "trainer=default picks what is there"
    if wanted in ("gpu", "cuda") and not has_gpu():
        yield Problem("trainer.accelerator", "there is no GPU on this machine", remedy)
    elif wanted in ("gpu", "cuda") and not has_accelerator():
        yield Problem("trainer.accelerator", UNUSED_GPU, WITH_CUDA)
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
    if get(tree, "trainer.accelerator") == "auto" and has_gpu() and not has_accelerator():
        yield f"{UNUSED_GPU}, so the CPU trains; {WITH_CUDA}"


def on_cpu(tree: Tree) -> bool:
    """Whether training will run on the CPU."""
    accelerator = get(tree, "trainer.accelerator")
    return accelerator == "cpu" or (accelerator == "auto" and not has_accelerator())


def has_accelerator() -> bool:
    """Whether there is a GPU that torch can use."""
    return has_gpu() and (sys.platform == "darwin" or _torch_knows_gpus())


def has_gpu() -> bool:
    """Whether the machine has a GPU that this process may see."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    if sys.platform == "win32":
        return Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll").exists()
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    return _nvidia() > 0 or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()


def _nvidia() -> int:
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _torch_knows_gpus() -> bool:
    """Whether the torch that is installed was built for any; where its own word is not found, it decides later."""
    spec = find_spec("torch")
    file = Path(spec.origin or "").with_name("version.py") if spec else Path()
    try:
        said = re.findall(r"^(?:cuda|hip|xpu)\b[^=]*=\s*(.+)$", file.read_text(encoding="utf8"), re.M)
    except OSError:
        return True
    return not said or any(value.strip() != "None" for value in said)


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
    return len(visible.split(",")) if visible else _nvidia()


def _machines(count: Any) -> Iterator[Problem]:
    if isinstance(count, int) and count > 1 and not any(os.environ.get(name) for name in CLUSTER):
        found = f"{count} machines are asked for, and this process was started alone: it would wait for the others"
        yield Problem("trainer.num_nodes", found, "start it on each with torchrun or SLURM, or set trainer.num_nodes=1")


def _workers(count: Any) -> Iterator[Problem]:
    most = max(LEAST_WORKERS, 4 * (os.cpu_count() or 1))
    if isinstance(count, int) and count > most:
        found = f"{count} loader processes are more than this machine can run"
        yield Problem("data.num_workers", found, f"at most {most}; {os.cpu_count()}, one for each core, is plenty")
