"""The memory that a device has free."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loralab.errors import user_error

SETTING = "memory.limit_gb"


def device_of(accelerator: str) -> str:
    """cpu or cuda: where a run with this `trainer.accelerator` keeps its tensors."""
    import torch

    return "cuda" if accelerator in ("gpu", "cuda", "auto") and torch.cuda.is_available() else "cpu"


def limit_gb(wanted: Any, device: str) -> float:
    """The number that is wanted; for `auto` what is free, rounded down to a tenth."""
    return float(wanted) if wanted != "auto" else int(10 * _free(device) / 2**30) / 10


def _free(device: str) -> int:
    """Bytes; of a computer those of this process count, which are part of what it needs."""
    import torch

    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        available, own = _kib("/proc/meminfo", "MemAvailable:"), _kib("/proc/self/status", "VmRSS:")
    except OSError as error:
        raise user_error(SETTING, "auto: this system does not tell how much memory is free", "give a number") from error
    return 1024 * (available + own)


def _kib(file: str, name: str) -> int:
    lines = Path(file).read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))
