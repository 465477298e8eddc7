"""Callbacks that tests put into a run: `+callbacks.stop._target_=tests.stopping.SignalAt allow=[tests.]`."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class SignalAt(Callback):
    """Sends this process a signal when a batch, counted from 1 over all epochs, begins."""

    def __init__(self, batch: int, name: str = "SIGTERM") -> None:
        self.batch, self.name = batch, name

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            os.kill(os.getpid(), signal.Signals[self.name])


class LookLate(Callback):
    """Lets Health look at the steps as late as on a GPU."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        from loralab.callbacks.health import Health

        health = next(c for c in trainer.callbacks if isinstance(c, Health))  # type: ignore[attr-defined]
        health.waits = False
        health._keep(trainer, module)


class HalfPrecision(Callback):
    """fp16 with its scaler, on a CPU, which the settings refuse: slow, but the same code."""

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        from lightning.pytorch.plugins.precision.amp import MixedPrecision

        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu")
