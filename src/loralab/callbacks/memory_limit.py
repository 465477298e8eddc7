"""Keeps a run whose memory is limited to what it was planned with, and shows early where it is not enough."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from loralab.training import heap
from loralab.training.dry_run import dry_run
from loralab.training.memory_advice import peak_gigabytes
from loralab.training.module import LoraModule

if TYPE_CHECKING:
    from loralab.data.module import DataModule


class MemoryLimit(Callback):
    """Begins with a dry run of the largest batch: what does not fit fails there, not hours later.

    Nothing of the result changes. Not with several devices. limit_gb: a peak above it is said.
    """

    def __init__(self, limit_gb: float) -> None:
        self.limit_gb = limit_gb

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        if trainer.world_size > 1:
            return
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        dry_run(trainer, module, data.largest_batch().to(module.device))
        peak = peak_gigabytes(trainer.strategy.root_device)
        if peak > self.limit_gb:
            words = f"{peak:.2f} GB with the largest batch, above memory.limit_gb={self.limit_gb:g}"
            print(f"memory    {words}", flush=True)

    def on_train_batch_start(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        heap.trim()
