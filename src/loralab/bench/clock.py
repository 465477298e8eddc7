"""Times the optimizer steps of a run."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.profilers import SimpleProfiler

from loralab.bench.laps import Laps

NEXT_BATCH = "[_TrainingEpochLoop].train_dataloader_next"
"""What Lightning's profiler calls the time that the loop waits for a batch."""


class Clock(Callback):
    """Writes a run's figures to a file when it ends; the run has trainer.profiler=simple."""

    def __init__(self, file: str, warmup: int) -> None:
        self.file, self.laps = Path(file), Laps(warmup)
        self.images = 0

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.laps.begin()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.images = len(batch)
        self.laps.lap()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        figures = self.laps.figures(module.device, self.images)
        profiler = trainer.profiler  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(profiler, SimpleProfiler) and (waits := profiler.recorded_durations.get(NEXT_BATCH)):
            figures["seconds_waiting_for_data"] = round(statistics.median(waits[self.laps.warmup :] or waits), 6)
        self.file.write_text(json.dumps(figures))
