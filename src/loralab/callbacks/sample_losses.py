"""Logs the loss of each sample, for `loralab analyse`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from loralab.training.internals import is_accumulating
from loralab.training.loss_log import FOLDER, RECORD, LoggedImage, Losses, append, cut, file_of
from loralab.training.module import LoraModule
from loralab.training.run_state import RunState
from loralab.types import Batch, Item


class SampleLosses(Callback):
    """Appends to `losses/RANK.log` (see loss_log) every `trainer.log_every_n_steps` optimizer steps and with every
    training state; in between it collects, without waiting for the device. Regularisation images are not logged.

    A resumed run continues the log of the run that saved its state, as it was at the state's step.
    """

    def __init__(self, *, run: RunState) -> None:
        self.run = run
        self.file: Path | None = None
        self.numbers: dict[tuple[str, str], int] = {}
        """The image of a path and a caption, in the log."""
        self.images: dict[int, LoggedImage] = {}
        """Those not written yet."""
        self.collected: list[tuple[int, list[int], Tensor, Tensor]] = []
        """Of each batch: step, image numbers, timesteps, losses (B,)."""
        self.written_at = 0

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        self.file, self.written_at = file_of(self.run.folder, trainer.global_rank), trainer.global_step
        own = self._take_over(trainer, self.run.resumed_from) if self.run.resumed_from else Losses()
        self.numbers = {(image.path, image.caption): number for number, image in own.images.items()}

    def _take_over(self, trainer: Trainer, earlier: Path) -> Losses:
        """Of the earlier run's logs those that no other process takes over; returns what is now in this one's."""
        own = Losses()
        for source in sorted((earlier / FOLDER).glob("*.log")):
            rank = int(source.stem) if source.stem.isdigit() else 0
            if rank % trainer.world_size == trainer.global_rank:
                found = cut(source, file_of(self.run.folder, rank), trainer.global_step)
                own = found if rank == trainer.global_rank else own
        return own

    def on_train_batch_end(
        self, trainer: Trainer, module: LoraModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step, losses = trainer.global_step, module.last_losses
        values = losses.unweighted
        if batch.mask is not None:  # the mean over what the mask counts: otherwise small subjects look easy
            values = values / batch.mask.mean((1, 2, 3))
        images = [-1 if item.is_reg else self._number(trainer, item) for item in batch.items]
        self.collected.append((step + is_accumulating(trainer), images, losses.timesteps, values))
        if step != self.written_at and step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._write()
            self.written_at = step

    def _number(self, trainer: Trainer, item: Item) -> int:
        key = os.path.abspath(item.path), item.caption
        if key not in self.numbers:
            self.numbers[key] = number = len(self.numbers)
            tags = trainer.datamodule.tags_of(item)  # type: ignore[attr-defined]
            self.images[number] = LoggedImage(key[0], item.digest, item.caption, tags)
        return self.numbers[key]

    def _write(self) -> None:
        if not (self.collected and self.file):
            return
        steps, images, timesteps, losses = zip(*self.collected, strict=True)
        records = np.empty(sum(map(len, images)), RECORD)
        records["step"] = np.repeat(steps, [len(part) for part in images])
        records["timestep"] = torch.cat(timesteps).float().numpy()
        records["loss"] = torch.cat(losses).float().cpu().numpy()
        numbers = np.concatenate(images)
        records["image"] = np.maximum(numbers, 0)
        append(self.file, records[numbers >= 0], self.images)
        self.collected, self.images = [], {}

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        self._write()

    def on_exception(self, trainer: Trainer, module: LoraModule, exception: BaseException) -> None:
        with suppress(RuntimeError):  # of the device, where that is what happened
            self._write()

    def on_save_checkpoint(self, trainer: Trainer, module: LoraModule, checkpoint: dict[str, Any]) -> None:
        self._write()
