"""What a run ran on: package versions, hardware, and the git state of the working folder.

No environment variables, no names of users, hosts or folders.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from loralab import __version__
from loralab.gpus import gpus


def environment() -> dict[str, Any]:
    """The part of a run's record that describes where it ran."""
    return {"versions": versions(), "hardware": hardware(), "git": git()}


@cache
def versions() -> dict[str, str]:
    """Those of Python, of loralab, and of every installed package."""
    # read once: every attribute of a distribution would read its file again
    found = (package.metadata for package in importlib.metadata.distributions())
    installed = {metadata["Name"].lower(): metadata["Version"] for metadata in found}
    return {"python": platform.python_version(), **dict(sorted(installed.items())), "loralab": __version__}


@cache
def hardware() -> dict[str, Any]:
    """The operating system, processor, memory and GPUs of this machine, whether used or not."""
    return {
        "system": platform.platform(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": _threads(),
        "memory_gb": _memory(),
        "gpus": _gpus(),
    }


def git() -> dict[str, Any] | None:
    """The commit of the working folder, and whether tracked files differ from it; None outside of a repository."""
    commit = _said("git", "rev-parse", "HEAD")
    if commit is None:
        return None
    # a repository's configuration may name a program as its file-system monitor, which nobody asked to run
    changed = _said("git", "-c", "core.fsmonitor=false", "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _processor() -> str:
    if sys.platform == "darwin":
        return _said("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _threads() -> int:
    """Of torch on the processor: how many share a sum decides how it is rounded."""
    from torch import get_num_threads  # takes seconds; whoever trains has imported it

    return get_num_threads()


def _memory() -> float | None:
    """Gigabytes."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _gpus() -> list[str]:
    """Their names; asked of the driver, as torch would begin to use them."""
    found = gpus()
    said = _said("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") if "cuda" in found else None
    return said.splitlines() if said else sorted(found)


def _said(*command: str) -> str | None:
    """What a command prints; None where it fails. It never asks for anything."""
    quiet = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, env=os.environ | quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return None if done.returncode else done.stdout.strip()
