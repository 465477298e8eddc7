"""Scores the pictures of a run when its training has ended."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from loralab.report.scored import Scored, in_words, references, scored
from loralab.scorers.embeddings import Embeddings
from loralab.training.module import LoraModule
from loralab.training.run_state import RunState

if TYPE_CHECKING:
    from loralab.data.module import DataModule


class Scoring(Callback):
    """Logs the scores of the pictures of each training step; those of the last are among the run's metrics.

    The scorer is loaded after training, on its device or, where that has no room, on the CPU, and freed afterwards.
    """

    def __init__(self, scorer: str, run: RunState) -> None:
        self.scorer, self.run = scorer, run

    def opening(self, module: LoraModule, data: DataModule) -> list[str]:
        training = [*data.plan.draws.training_items()]
        compared = f"{len(references(training))} of {len(training)} training images"
        return [f"scores    by {self.scorer} after training: similarity to {compared} and to the prompts"]

    def on_fit_end(self, trainer: Trainer, module: LoraModule) -> None:
        if not trainer.is_global_zero or self.run.interrupted:
            return
        training_images = references(trainer.datamodule.plan.draws.training_items())  # type: ignore[attr-defined]
        try:
            found = self._scored(training_images, trainer.strategy.root_device)
        except torch.OutOfMemoryError:  # the base model may still be there
            torch.cuda.empty_cache()
            found = self._scored(training_images, torch.device("cpu"))
        for step, scores in found.items():
            for logger in trainer.loggers:
                logger.log_metrics(scores, step)
        if found:
            last = max(found)
            trainer.callback_metrics.update({name: torch.tensor(value) for name, value in found[last].items()})
            print(f"scores    step {last}: {in_words(found[last])}", flush=True)

    def _scored(self, training_images: list[Path], device: torch.device) -> Scored:
        embeddings = Embeddings(self.scorer, self.run.settings["data"]["cache_folder"], device)
        found, unread = scored(self.run.folder, training_images, embeddings)
        for words in unread:
            print(f"note      not scored: {words}", flush=True)
        return found
