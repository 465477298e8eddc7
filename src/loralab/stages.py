"""How long it takes from the start of a process to the first step of its training, stage by stage."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

_IMPORTED = time.time()


class Stages:
    """Seconds of each stage, by name in their order: one ends where `end` names it, and the next begins."""

    def __init__(self, since: float) -> None:
        """since: time.time() at which the first one began."""
        self.seconds: dict[str, float] = {}
        self._since = since

    def end(self, stage: str) -> None:
        now = time.time()
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + now - self._since, 3)
        self._since = now


def told(seconds: Mapping[str, float]) -> str:
    """The seconds of each stage in one line, without what took no tenth of one."""
    named = ", ".join(f"{stage} {taken:.1f}" for stage, taken in seconds.items() if taken >= 0.05)
    return f"{sum(seconds.values()):.1f} s ({named})"


def process_start() -> float:
    """time.time() at which this process started; where the system does not say, at which this module was imported."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")  # proc_pid_stat(5)
    except (OSError, AttributeError, ValueError, IndexError):
        return _IMPORTED
    return time.time() - age
