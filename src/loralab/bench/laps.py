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
        self.marks: list[torch.cuda.Event] = []
        """What a GPU passes at the end of each step: the program may be far ahead of it."""
        self.pauses: list[float] = []

    def lap(self) -> None:
        """To be called at the end of each step."""
        self.times.append(time.perf_counter())
        if torch.cuda.is_initialized():
            self.marks.append(torch.cuda.Event(enable_timing=True))
            self.marks[-1].record()

    def begin(self) -> None:
        """To be called where the work of a step begins, its batch being there."""
        if self.times:
            self.pauses.append(time.perf_counter() - self.times[-1])

    def figures(self, device: torch.device, images: int) -> dict[str, float]:
        """images: per step; none of the steps that are measured, no figures of them. Of the steps the median, which is
        that of an undisturbed one; images a second are of all, with what is done in some of them."""
        found = {"peak_memory_gb": round(peak_gigabytes(device), 3)}
        if counted := self._seconds(device)[self.warmup - 1 :]:
            found["seconds_per_step"] = round(statistics.median(counted), 5)
            found["images_per_second"] = round(images / statistics.mean(counted), 3)
        if pauses := self.pauses[self.warmup - 1 :]:
            found["seconds_between_steps"] = round(statistics.median(pauses), 5)
        return found

    def _seconds(self, device: torch.device) -> list[float]:
        """From the end of each step to that of the next."""
        if device.type != "cuda":
            return [after - before for before, after in pairwise(self.times)]
        torch.cuda.synchronize(device)
        return [before.elapsed_time(after) / 1000 for before, after in pairwise(self.marks)]
