"""Logs the loss of each sample, for `loralab analyse`."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from loralab.data.sources.mounts import absolute
from loralab.diffusion.objective import Losses as BatchLosses
from loralab.rng import derive
from loralab.schema.ranges import AtLeastOne
from loralab.training.internals import is_accumulating
from loralab.training.loss_log import FOLDER, RECORD, LoggedImage, Losses, append, cut, file_of
from loralab.training.module import LoraModule
from loralab.training.run_state import RunState
from loralab.types import Batch, Item


@dataclass(slots=True)
class _Collected:
    """Of one batch."""

    step: int
    images: list[int]
    """Their numbers, -1 for those that are not logged."""
    timesteps: Tensor
    losses: Tensor
    """(B,)"""
    base: Tensor | None = None
    """(B,) the base model's losses."""


class SampleLosses(Callback):
    """Appends to `losses/RANK.log` (see loss_log) every `trainer.log_every_n_steps` optimizer steps and with every
    training state; in between it collects, without waiting for the device. Regularisation images are not logged.

    In one of every `base_every_n_steps` optimizer steps, at a random place among them, the batches are also given to
    the base model, with the same noise, timesteps and captions; null: never.

    A resumed run continues the log of the run that saved its state, as it was at the state's step.
    """

    def __init__(self, *, base_every_n_steps: AtLeastOne | None = 10, run: RunState) -> None:
        self.base_every_n_steps, self.run = base_every_n_steps, run
        self.file: Path | None = None
        self.numbers: dict[tuple[str, str], int] = {}
        """The image of a path and a caption, in the log."""
        self.images: dict[int, LoggedImage] = {}
        """Those not written yet."""
        self.collected: list[_Collected] = []
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
        images = [-1 if item.is_reg else self._number(trainer, item) for item in batch.items]
        now = _Collected(step + is_accumulating(trainer), images, losses.timesteps, _values(losses, batch))
        self.collected.append(now)  # before the base model is asked, which may fail
        if self._asks_base(now.step):
            with module.run.pace.pause(), module.adapters.enabled(False), module.at_rest():
                now.base = _values(module.losses(batch, module.seed), batch)
        if step != self.written_at and step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._write()
            self.written_at = step

    def _asks_base(self, step: int) -> bool:
        """At a place that differs from window to window: at a fixed one, an order that repeats would show the base
        model the same images each time."""
        every = self.base_every_n_steps
        return every is not None and (step - 1) % every == derive(0, "base loss", (step - 1) // every) % every

    def _number(self, trainer: Trainer, item: Item) -> int:
        key = absolute(item.path), item.caption
        if key not in self.numbers:
            self.numbers[key] = number = len(self.numbers)
            tags = trainer.datamodule.tags_of(item)  # type: ignore[attr-defined]
            self.images[number] = LoggedImage(key[0], item.digest, item.caption, tags)
        return self.numbers[key]

    def _write(self) -> None:
        if not (self.collected and self.file):
            return
        parts = self.collected
        numbers = np.concatenate([part.images for part in parts])
        records = np.empty(len(numbers), RECORD)
        records["step"] = np.repeat([part.step for part in parts], [len(part.images) for part in parts])
        records["image"] = np.maximum(numbers, 0)
        records["timestep"] = torch.cat([part.timesteps for part in parts]).float().numpy()
        records["loss"] = torch.cat([part.losses for part in parts]).float().cpu().numpy()
        unknown = float("nan")
        base = [torch.full_like(part.losses, unknown) if part.base is None else part.base for part in parts]
        records["base"] = torch.cat(base).float().cpu().numpy()
        append(self.file, records[numbers >= 0], self.images)
        self.collected, self.images = [], {}

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        self._write()

    def on_exception(self, trainer: Trainer, module: LoraModule, exception: BaseException) -> None:
        with suppress(RuntimeError):  # of the device, where that is what happened
            self._write()

    def on_save_checkpoint(self, trainer: Trainer, module: LoraModule, checkpoint: dict[str, Any]) -> None:
        self._write()


def _values(losses: BatchLosses, batch: Batch) -> Tensor:
    """(B,) before any weight, the mean over what the mask counts: otherwise small subjects look easy."""
    return losses.unweighted if batch.mask is None else losses.unweighted / batch.mask.mean((1, 2, 3))
