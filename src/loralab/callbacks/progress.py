"""The progress bar of a run."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from loralab.training.module import LoraModule
from loralab.values import AtLeastOne


class ProgressBar(Callback):
    """Optimizer steps done, epoch, loss (smoothed over about 50 batches), images a second, time left.

    The loss is averaged where it is, and shown every trainer.log_every_n_steps steps: a look would wait for the device.
    """

    def __init__(self, *, refresh_every_n_steps: AtLeastOne = 1) -> None:
        self.refresh_every_n_steps = refresh_every_n_steps
        self.loss: Tensor | None = None
        """() on the device of the training."""
        self.shown = ""

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        if not trainer.is_global_zero:
            return
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self.task = self.bar.add_task("", total=trainer.estimated_stepping_batches, completed=trainer.global_step)
        self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LoraModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not hasattr(self, "bar"):
            return
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches  # Lightning has divided it
        self.loss = mean = loss if self.loss is None else self.loss.lerp(loss, 0.02)
        if not self.shown or trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.shown = f"loss {mean.item():.4f}"
        if trainer.global_step % self.refresh_every_n_steps == 0:
            words = f"epoch {trainer.current_epoch + 1} · {self.shown} · {module.pace.rate:.1f} images/s"
            self.bar.update(self.task, completed=trainer.global_step, description=words)

    def teardown(self, trainer: Trainer, module: LoraModule, stage: str) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()
            del self.bar
