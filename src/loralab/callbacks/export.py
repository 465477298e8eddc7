"""Saves the adapter while training and at the end."""

from __future__ import annotations

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from loralab.training.output import Output
from loralab.values import AtLeastOne


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
        self.last_step = 0

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        step = trainer.global_step
        if self.every_n_steps and step > self.last_step and step % self.every_n_steps == 0:
            self._save(trainer, module, f"-step{step:08d}")
        self.last_step = step

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        if self.every_n_epochs and epoch % self.every_n_epochs == 0 and trainer.is_last_batch:
            self._save(trainer, module, f"-{epoch:06d}")

    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        finished = not trainer.interrupted and not getattr(module, "stopped_early", False)
        self._save(trainer, module, "" if finished else f"-step{trainer.global_step:08d}", keep=True)

    def _save(self, trainer: Trainer, module: LightningModule, suffix: str, keep: bool = False) -> None:
        if not trainer.is_global_zero:
            return
        with module.evaluation_weights():
            path = self.output.save(module.adapters, trainer.current_epoch, trainer.global_step, suffix)
        if keep or path in self.kept:
            return
        self.kept.append(path)
        while self.keep_last and len(self.kept) > self.keep_last:
            self.output.forget(self.kept.pop(0))
