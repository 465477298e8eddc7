"""Writes how far the run is into its folder."""

from __future__ import annotations

import math
import sys
import time

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from loralab.callbacks.due import steps_done
from loralab.training.arriving import Arriving
from loralab.training.module import LoraModule
from loralab.training.pace import TimeLeft
from loralab.training.progress_file import NAME, Progress
from loralab.training.run_state import RunState
from loralab.writing import WriteError

EVERY_SECONDS = 1.0


class ProgressFile(Callback):
    """Writes progress.json once a second, and when a validation, or the training, ends.

    The device is not waited for: where it is behind, the loss is that of the write before. A file that cannot be
    written is noted once.
    """

    def __init__(self, *, run: RunState) -> None:
        self.run, self.time_left = run, TimeLeft()
        self.next, self.unwritten = 0.0, False
        self.validation_loss: float | None = None
        self.arriving: Arriving | None = None

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        self._write(trainer)

    def on_train_batch_end(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        if time.monotonic() >= self.next and steps_done(trainer) is not None:
            self._write(trainer)

    def on_validation_end(self, trainer: Trainer, module: LoraModule) -> None:
        # every device asks for it, as Lightning may average it over them
        loss = trainer.callback_metrics.get("validation/loss")
        self.validation_loss = None if loss is None else float(loss)
        self._write(trainer)

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        self.on_validation_end(trainer, module)  # the last one is measured when the training ends

    def on_exception(self, trainer: Trainer, module: LoraModule, exception: BaseException) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        self.next = time.monotonic() + EVERY_SECONDS
        if not trainer.is_global_zero:
            return
        try:
            self._progress(trainer).write(self.run.folder)
        except WriteError as error:
            if not self.unwritten:
                print(f"note: {NAME}: {error.problems[0].found}", file=sys.stderr, flush=True)
            self.unwritten = True

    def _progress(self, trainer: Trainer) -> Progress:
        step, steps = trainer.global_step, trainer.estimated_stepping_batches
        return Progress(
            step=step,
            steps=int(steps) if math.isfinite(steps) else None,
            images_per_second=self.run.pace.rate if self.run.pace.images else None,
            seconds_left=self.time_left.seconds(step, steps) if step else None,
            loss=self._loss(),
            validation_loss=self.validation_loss,
        )

    def _loss(self) -> float | None:
        earlier, self.arriving = self.arriving, None if self.run.loss is None else Arriving(self.run.loss)
        newest = self.arriving if self.arriving and self.arriving.is_there() else earlier
        return None if newest is None else newest.value()
