"""Ends a run of a search whose validation losses are worse than those of earlier runs at the same step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from loralab.training.module import LoraModule
from loralab.training.study import StoredStudy

if TYPE_CHECKING:
    from optuna.pruners import BasePruner


class Pruning(Callback):
    """Reports each validation to an Optuna trial; its pruner says whether the run ends. `stopped` says when and why.

    trial: its number in the study, a SQLite file that the search keeps (see loralab.command.search).
    """

    def __init__(self, trial: int, study: Path, pruner: BasePruner) -> None:
        self.trial, self.study, self.pruner = trial, study, pruner
        self.stopped: str | None = None

    def on_validation_end(self, trainer: Trainer, module: LoraModule) -> None:
        loss = float(trainer.callback_metrics["validation/loss"])
        if trainer.strategy.broadcast(trainer.is_global_zero and self._prunes(trainer.global_step, loss)):
            trainer.should_stop = True
            self.stopped = (
                f"pruned at step {trainer.global_step}: validation/loss {loss:.4f} is worse than of other points"
            )
            print(f"\n{self.stopped}", flush=True)

    def _prunes(self, step: int, loss: float) -> bool:
        stored = StoredStudy(self.study, pruner=self.pruner)
        trial = stored.trial(self.trial)
        if step not in stored.study.trials[self.trial].intermediate_values:  # a resumed run may measure a step again
            trial.report(loss, step)
        if not trial.should_prune():
            return False
        trial.set_user_attr("pruned", step)
        return True
