"""Curves of a run: rates, norms, speed, and the loss by timestep and by folder."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim import Optimizer

from loralab.schema.ranges import Bands
from loralab.training.memory_advice import peak_gigabytes
from loralab.training.module import LoraModule
from loralab.training.pace import Pace
from loralab.types import Batch


class Monitor(Callback):
    """Logs every `trainer.log_every_n_steps` optimizer steps; in between it collects, without waiting for the device.

    The learning rate of each group (times d where the optimizer estimates one), the norm of the gradient and of the
    adapter per part, images a second, the share of the time spent waiting for data, memory in GB, and the unweighted
    loss smoothed, by timestep band, and by folder.
    """

    def __init__(self, *, timestep_bands: Bands = 5) -> None:
        self.timestep_bands = timestep_bands
        self.collected: list[tuple[torch.Tensor, torch.Tensor, list[str]]] = []
        self.epochs: list[tuple[int, torch.Tensor]] = []
        """Of those whose mean loss was not yet logged: the last optimizer step, counted from 0, and the loss, ()."""
        self.smoothed: float | None = None
        self.last_logged = -1

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        self._begin(module.run.pace)
        self.batch_ended = self.since

    def _begin(self, pace: Pace) -> None:
        """Starts another interval of steps to be logged."""
        self.images, self.since, self.waited = pace.images, pace.seconds, 0.0

    def on_train_batch_start(self, trainer: Trainer, module: LoraModule, batch: Batch, batch_idx: int) -> None:
        self.waited += module.run.pace.seconds - self.batch_ended

    def on_before_optimizer_step(self, trainer: Trainer, module: LoraModule, optimizer: Optimizer) -> None:
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            tensors: dict[str, list[torch.Tensor]] = defaultdict(list)
            for group in optimizer.param_groups:
                part = group.get("name", "adapter").split("/")[0]
                tensors[f"gradient_norm/{part}"] += [p.grad for p in group["params"] if p.grad is not None]
                tensors[f"adapter_norm/{part}"] += [p.detach() for p in group["params"]]
            module.log_dict({name: nn.utils.get_total_norm(those) for name, those in tensors.items() if those})

    def on_train_batch_end(
        self, trainer: Trainer, module: LoraModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        losses = module.last_losses
        folders = [Path(item.path).parent.name for item in batch.items]
        self.collected.append((losses.unweighted, losses.timesteps, folders))
        step = trainer.global_step
        if step != self.last_logged and step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.last_logged = step
            figures = self._figures(trainer, module.run.pace)
            for logger in trainer.loggers:
                logger.log_metrics(figures, step)
            self._log_epochs(trainer)
            self._begin(module.run.pace)
        self.batch_ended = module.run.pace.seconds

    def on_train_epoch_end(self, trainer: Trainer, module: LoraModule) -> None:
        if "loss_epoch" in trainer.callback_metrics:
            self.epochs.append((trainer.global_step - 1, trainer.callback_metrics["loss_epoch"]))

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        self._log_epochs(trainer)

    def _log_epochs(self, trainer: Trainer) -> None:
        for step, loss in self.epochs:
            for logger in trainer.loggers:
                logger.log_metrics({"loss_epoch": loss.item()}, step)
        self.epochs.clear()

    def _figures(self, trainer: Trainer, pace: Pace) -> dict[str, float]:
        seconds = pace.seconds - self.since
        return {
            "images_per_second": (pace.images - self.images) / seconds,
            "waiting_for_data": self.waited / seconds,
            "memory_gb": round(peak_gigabytes(trainer.strategy.root_device), 3),
            **_rates(trainer.optimizers[0]),
            **self._losses(),
        }

    def _losses(self) -> dict[str, float]:
        """Means of what was collected since the last call."""
        by: dict[str, list[float]] = defaultdict(list)
        width = 1000 / self.timestep_bands
        losses = torch.cat([losses for losses, _, _ in self.collected]).tolist()
        timesteps = torch.cat([timesteps for _, timesteps, _ in self.collected]).tolist()
        folders = chain.from_iterable(folders for _, _, folders in self.collected)
        for loss, timestep, folder in zip(losses, timesteps, folders, strict=True):
            band = int(timestep / width)
            by[f"loss_by_timestep/{band * width:03.0f}-{(band + 1) * width:03.0f}"].append(loss)
            by[f"loss_by_folder/{folder}"].append(loss)
            self.smoothed = loss if self.smoothed is None else 0.99 * self.smoothed + 0.01 * loss
        self.collected.clear()
        return {"loss_smoothed": self.smoothed or 0.0} | {name: sum(v) / len(v) for name, v in by.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"smoothed": self.smoothed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.smoothed = state_dict["smoothed"]


def _rates(optimizer: Optimizer) -> dict[str, float]:
    return {
        f"lr/{group.get('name', i)}": float(group["lr"]) * float(group.get("d", 1.0))
        for i, group in enumerate(optimizer.param_groups)
    }
