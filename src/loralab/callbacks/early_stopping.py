"""Ends a run whose validation loss has stopped falling, and says so."""

from __future__ import annotations

from typing import Literal

from lightning import Trainer
from lightning.pytorch import callbacks

from loralab.training.module import LoraModule
from loralab.values import AtLeastOne, NonNegative


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, told by Validation; `stopped` says when and why."""

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
            better = f"better than {float(self.best_score):.4f}"
            better += f" by more than {abs(self.min_delta):g}" if self.min_delta else ""
            why = f"was not {better} in {self.wait_count} validations" if self.wait_count else "is not finite"
            self.stopped = f"early stopping at step {trainer.global_step}: {self.monitor} {why}, and is {value:.4f} now"
            print(f"\n{self.stopped}", flush=True)
