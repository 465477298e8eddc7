"""Saves the adapter while training and at the end."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from loralab.callbacks.due import due, epochs_done, steps_done
from loralab.schema.ranges import AtLeastOne
from loralab.training.file_names import after_epoch, after_step
from loralab.training.module import LoraModule
from loralab.training.output import Output


class Export(Callback):
    """Writes the adapter every so many epochs or optimizer steps, keeping the last few, and at the end of the run."""

    def __init__(
        self,
        *,
        every_n_epochs: AtLeastOne | None = None,
        every_n_steps: AtLeastOne | None = None,
        keep_last: AtLeastOne | None = None,
        output: Output,
    ) -> None:
        self.every_n_epochs, self.every_n_steps, self.keep_last = every_n_epochs, every_n_steps, keep_last
        self.output = output
        self.kept: list[Path] = []
        self.ended = False

    def on_train_batch_end(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        step, epoch = steps_done(trainer), epochs_done(trainer)
        if step and due(step, self.every_n_steps):
            self._save(trainer, module, after_step(step))
        if epoch and due(epoch, self.every_n_epochs):
            self._save(trainer, module, after_epoch(epoch))

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        if trainer.global_step or not module.run.interrupted:
            self._save(trainer, module, after_step(trainer.global_step) if module.run.interrupted else "", keep=True)
        self.ended = True

    def on_fit_end(self, trainer: Trainer, module: LoraModule) -> None:
        """Where there was nothing left to train."""
        if not self.ended:
            self.on_train_end(trainer, module)

    def _save(self, trainer: Trainer, module: LoraModule, suffix: str, keep: bool = False) -> None:
        with module.run.pace.pause(), module.evaluation_weights():  # which all processes check first
            if not trainer.is_global_zero:
                return
            path = self.output.save(module.adapters, module.run.position[0], trainer.global_step, suffix)
        if keep or path in self.kept:
            return
        self.kept.append(path)
        while self.keep_last and len(self.kept) > self.keep_last:
            self.output.forget(self.kept.pop(0))
