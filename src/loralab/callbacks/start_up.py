"""The last stages before the first step: what happens between the models being there and the first step being done."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from loralab.training.module import LoraModule


class StartUp(Callback):
    """Ends the stages of a run's start (see stages): "caches", "samples", "first step". The first of the callbacks."""

    def __init__(self) -> None:
        self.begun: int | None = None
        """The optimizer step at which this training began; None before, and when one is done."""

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        module.run.stages.end("caches")
        self.begun = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, module: LoraModule, batch: Any, batch_idx: int) -> None:
        if self.begun is not None and "samples" not in module.run.stages.seconds:
            module.run.stages.end("samples")

    def on_train_batch_end(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        if self.begun is not None and trainer.global_step > self.begun:
            module.run.stages.end("first step")
            self.begun = None
