"""Ends a run whose validation loss has stopped improving, and prints why."""

from __future__ import annotations

from typing import Literal

from lightning import Trainer
from lightning.pytorch import callbacks

from loralab.schema.ranges import AtLeastOne, NonNegative
from loralab.training.module import LoraModule


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's EarlyStopping, called by Validation; `stopped` says when and why."""

    def __init__(
        self,
        *,
        monitor: Literal["validation/loss", "validation/trained", "validation/gap"] = "validation/loss",
        patience: AtLeastOne = 5,
        min_delta: NonNegative = 0.0,
        mode: Literal["min", "max"] = "min",
        check_on_train_epoch_end: bool = False,
    ) -> None:
        super().__init__(
            monitor,
            patience=patience,
            min_delta=min_delta,
            mode=mode,
            check_on_train_epoch_end=check_on_train_epoch_end,
        )
        self.stopped: str | None = None

    def on_validation_end(self, trainer: Trainer, module: LoraModule) -> None:
        super().on_validation_end(trainer, module)
        if trainer.should_stop and self.stopping_reason_message and not self.stopped:
            value = float(trainer.callback_metrics[self.monitor])
            best = f"{float(self.best_score):.4f}"
            best += f" by more than {abs(self.min_delta):g}" if self.min_delta else ""
            why = f"did not improve on {best} in {self.wait_count} validations" if self.wait_count else "is not finite"
            self.stopped = f"early stopping at step {trainer.global_step}: {self.monitor} {why} (now {value:.4f})"
            print(f"\n{self.stopped}", flush=True)
