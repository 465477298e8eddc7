"""The duration of steps."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

import torch

from loralab.training.memory_advice import peak_gigabytes


class Laps:
    """The duration of steps, without the first `warmup` ones."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.times: list[float] = []
        self.pauses: list[float] = []

    def lap(self) -> None:
        """To be called at the end of each step."""
        self.times.append(time.perf_counter())

    def begin(self) -> None:
        """To be called where the work of a step begins, its batch being there."""
        if self.times:
            self.pauses.append(time.perf_counter() - self.times[-1])

    def figures(self, device: torch.device, images: int) -> dict[str, float]:
        """images: per step; none of the steps that are measured, no figures of them."""
        counted = self.times[self.warmup - 1 :]
        found = {"peak_memory_gb": round(peak_gigabytes(device), 3)}
        if len(counted) > 1:
            seconds = statistics.median(after - before for before, after in pairwise(counted))
            found |= {"seconds_per_step": round(seconds, 5), "images_per_second": round(images / seconds, 3)}
        if pauses := self.pauses[self.warmup - 1 :]:
            found["seconds_between_steps"] = round(statistics.median(pauses), 5)
        return found
