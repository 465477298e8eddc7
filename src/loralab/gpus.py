"""Which GPUs there are, and whether torch was built for them.

Found out from files, because importing torch takes seconds.
"""

from __future__ import annotations

import itertools
import os
import platform
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from shutil import which

from loralab.writing import hold

CUDA = "cu130"
"""The build of torch to install for NVIDIA."""
LOCALLY = "https://pytorch.org/get-started/locally"


def has_accelerator() -> bool:
    """Whether there is a GPU that is visible to this process and that torch can use."""
    builds = _torch_builds()
    return any(builds is None or build in builds or build == "mps" for build in gpus())


def gpus() -> set[str]:
    """What torch must be built for to use the GPUs that are visible to this process: cuda, hip, mps."""
    if _hidden():
        return set()
    if sys.platform == "darwin":
        return {"mps"} if platform.machine() == "arm64" else set()
    if sys.platform == "win32":
        there = {"cuda": Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32", "nvcuda.dll").exists()}
    else:
        nvidia = nvidia_count() > 0 or Path("/dev/dxg").exists()
        there = {"cuda": nvidia, "hip": Path("/dev/kfd").exists() and not nvidia}
    return {build for build, found in there.items() if found}


def nvidia_count() -> int:
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def visible_gpus() -> list[str]:
    """The CUDA devices that are visible to this process, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return [str(number) for number in range(nvidia_count())]
    return [] if _hidden() else [name.strip() for name in given.split(",")]


def take_gpu(folder: Path) -> str | None:
    """Of several visible GPUs makes one the only one that this process sees, and returns its name; else None.

    It is the one that the fewest processes have taken with the same folder, which keep theirs until they end, however
    they end. To be called before torch looks for GPUs.
    """
    names = visible_gpus()
    if len(names) < 2:
        return None
    name = least_taken(names, lambda place: _hold_new(folder / place))
    os.environ["CUDA_VISIBLE_DEVICES"] = name
    return name


def least_taken(names: list[str], take: Callable[[str], bool]) -> str:
    """The first name of which a place can be taken: a first place of each before a second one of any."""
    for place in itertools.count():
        for name in names:
            if take(f"{name}.{place}"):
                return name
    raise AssertionError


def _hold_new(folder: Path) -> bool:
    folder.mkdir(parents=True, exist_ok=True)
    return hold(folder)


def unused_gpu() -> tuple[str, str] | None:
    """What was found and the remedy, where there is a GPU that the installed torch was not built for."""
    found = gpus() or _by_driver()
    builds, version = _torch_builds(), _torch_says("__version__")
    if builds is None or not version or not found or found & {*builds, "mps"}:
        return None
    if "cuda" not in found:
        return f"found an AMD GPU, but torch {version} was built without ROCm", f"install its ROCm build: {LOCALLY}"
    plain = version.split("+")[0]
    command = f"pip install torch=={plain}+{CUDA} --index-url https://download.pytorch.org/whl/{CUDA}"
    said = f"found an NVIDIA GPU, but torch {version} was built without CUDA"
    return said, f"{command} (for an older driver see {LOCALLY})"


def _by_driver() -> set[str]:
    """Like `gpus`, where only a driver is visible."""
    return {"cuda"} if not _hidden() and (which("nvidia-smi") or Path("/proc/driver/nvidia").exists()) else set()


def _hidden() -> bool:
    return os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")


def _torch_builds() -> set[str] | None:
    """What the installed torch was built for; None where that cannot be found out."""
    said = {name: _torch_says(name) for name in ("cuda", "hip")}
    if all(value is None for value in said.values()):
        return None
    return {name for name, value in said.items() if value not in (None, "None")}


def _torch_says(name: str) -> str | None:
    """A value of torch/version.py, as text."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf8")
    except OSError:
        return None
    match = re.search(rf"^{name}\b[^=\n]*=\s*(.+)$", text, re.M)
    return match and match[1].strip().strip("'\"")
