"""How far a run is: a bar on a terminal, lines in a log."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from loralab import console
from loralab.callbacks.due import steps_done
from loralab.schema.ranges import AtLeastOne
from loralab.training.module import LoraModule
from loralab.training.pace import TimeLeft


class ProgressBar(Callback):
    """Optimizer steps done, epoch, loss (smoothed over about 50 batches), learning rate, images a second, time left.

    The loss is averaged on its device and shown every trainer.log_every_n_steps steps: reading it waits for the device.
    Where there is no terminal, and in the run's log, a line every so many seconds says the same.
    """

    def __init__(self, *, refresh_every_n_steps: AtLeastOne = 1, line_every_n_seconds: AtLeastOne = 30) -> None:
        self.refresh_every_n_steps, self.line_every_n_seconds = refresh_every_n_steps, line_every_n_seconds
        self.shown = ""
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        if not trainer.is_global_zero:
            return
        self.time_left = TimeLeft()
        self.next_line = 0.0
        self.bar = Progress(
            SpinnerColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=None),
            TextColumn("{task.description}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            disable=not Console().is_terminal,
        )
        self.task = self.bar.add_task("", total=trainer.estimated_stepping_batches, completed=trainer.global_step)
        self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LoraModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None:
            return
        assert module.run.loss is not None
        step = trainer.global_step
        if not self.shown or step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.shown = f"loss {module.run.loss.item():.4f} · lr {_rates(trainer)}"
        words = f"epoch {trainer.current_epoch + 1} · {self.shown} · {module.run.pace.rate:.1f} images/s"
        if step % self.refresh_every_n_steps == 0:
            self.bar.update(self.task, completed=step, description=words)
        now = time.monotonic()
        if now >= self.next_line and steps_done(trainer):
            self.next_line = now + self.line_every_n_seconds
            total = self.bar.tasks[0].total or step
            line = f"step {step}/{total:.0f} · {words}"
            if (left := self.time_left.seconds(step, total)) is not None:
                line += f" · {timedelta(seconds=round(left))} left"
            self._line(line)

    def _line(self, words: str) -> None:
        assert self.bar is not None
        if self.bar.disable:
            print(words, flush=True)
        else:
            console.note(words)

    def teardown(self, trainer: Trainer, module: LoraModule, stage: str) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def on_exception(self, trainer: Trainer, module: LoraModule, exception: BaseException) -> None:
        self.teardown(trainer, module, "fit")


def _rates(trainer: Trainer) -> str:
    """The learning rates of the optimizer's groups, of those that estimate one times their estimate."""
    groups = trainer.optimizers[0].param_groups
    return "/".join(dict.fromkeys(f"{float(group['lr']) * float(group.get('d', 1.0)):.2e}" for group in groups))
