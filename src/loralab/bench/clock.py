"""Times the optimizer steps of a run."""

from __future__ import annotations

import json
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from loralab.training.memory_advice import peak_gigabytes


class Laps:
    """The duration of steps, without the first `warmup` ones."""

    def __init__(self, warmup: int) -> None:
        self.warmup = warmup
        self.times: list[float] = []
        self.waits: list[float] = []

    def lap(self) -> None:
        """To be called at the end of each step."""
        self.times.append(time.perf_counter())

    def begin(self) -> None:
        """To be called where the work of a step begins, its batch being there."""
        if self.times:
            self.waits.append(time.perf_counter() - self.times[-1])

    def figures(self, device: torch.device, images: int, started: float) -> dict[str, float]:
        """images: per step; started: time.time() at which the process started."""
        first = time.time() - (time.perf_counter() - self.times[0]) - started
        counted = self.times[self.warmup - 1 :]
        seconds = statistics.median(after - before for before, after in pairwise(counted))
        waits = self.waits[self.warmup - 1 :]
        return {
            "seconds_per_step": round(seconds, 5),
            **({"seconds_between_steps": round(statistics.median(waits), 5)} if waits else {}),
            "images_per_second": round(images / seconds, 3),
            "peak_memory_gb": round(peak_gigabytes(device), 3),
            "seconds_to_first_step": round(first, 2),
        }


class Clock(Callback):
    """Writes a run's figures to a file when it ends."""

    def __init__(self, file: str, warmup: int, started: float) -> None:
        self.file, self.started, self.laps = Path(file), started, Laps(warmup)
        self.images = 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.laps.begin()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images = len(batch)
        self.laps.lap()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.file.write_text(json.dumps(self.laps.figures(module.device, self.images, self.started)))
