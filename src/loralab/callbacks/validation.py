"""The loss on held-out images, and on as many that are trained on: generalisation against memorisation."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader

from loralab import signals
from loralab.callbacks.due import due, epochs_done, steps_done
from loralab.callbacks.early_stopping import EarlyStopping
from loralab.diffusion.loss import L2
from loralab.diffusion.objective import Objective
from loralab.diffusion.timesteps import Uniform
from loralab.schema.ranges import AtLeastOne, Bands
from loralab.training.file_names import BEST
from loralab.training.module import LoraModule
from loralab.training.output import Output
from loralab.types import Batch

GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole parts, fill [0, 1) evenly, however many there are."""


class Validation(Callback):
    """Predicts plain noise on data.validation's images, each at one timestep of every band.

    Images, noise and timesteps are the same each time and in every run, whatever its seed and objective: the curves can
    be compared. Logs validation/loss (held out), validation/trained (trained on), validation/gap (their difference) and
    the loss by timestep band. A plateau schedule is stepped by the first; callbacks that wait for the end of a
    validation (Lightning's EarlyStopping) are called; the best adapter so far is kept as `NAME-best`.
    """

    def __init__(
        self,
        *,
        every_n_epochs: AtLeastOne | None = 1,
        every_n_steps: AtLeastOne | None = None,
        timestep_bands: Bands = 5,
        save_best: bool = False,
        output: Output,
    ) -> None:
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.timestep_bands, self.save_best, self.output = timestep_bands, save_best, output
        self.plain = Objective({}, Uniform(), L2(), {})
        self.loaders: list[DataLoader] = []
        self.best: dict[str, float] = {}
        """loss and step of the best validation."""
        self.last = 0
        """The optimizer step of the last validation."""

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        """Catches up on the validation of the state's step, before which the state was saved."""
        self.loaders = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        if self.loaders:
            self._tell_who_waits_in_vain(trainer)
        epoch, batch = module.run.position
        if trainer.global_step > self.last:
            self._validate_if_due(trainer, module, trainer.global_step, None if batch else epoch)

    def _tell_who_waits_in_vain(self, trainer: Trainer) -> None:
        """A plateau schedule and early stopping act after so many validations without a better loss, after a first."""
        steps = int(trainer.estimated_stepping_batches)
        an_epoch = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
        times = set(range(self.every_n_steps or steps + 1, steps + 1, self.every_n_steps or 1))
        times |= {epoch * an_epoch for epoch in range(1, steps // an_epoch + 1) if due(epoch, self.every_n_epochs)}
        schedule = trainer.lr_scheduler_configs[0].scheduler
        waiting = {"scheduler.patience": schedule.patience + 1} if isinstance(schedule, ReduceLROnPlateau) else {}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping):
                waiting["callbacks.early_stopping.patience"] = callback.patience
        for setting, patience in waiting.items():
            if len(times) <= patience:
                value, needed = patience - setting.startswith("scheduler"), patience + 1
                print(
                    f"note      {setting}={value} has no effect: it needs {needed} validations, but the run "
                    f"has only {len(times)}; lower it, or validate more often: callbacks.validation.every_n_steps"
                )

    def on_train_batch_end(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        self._validate_if_due(trainer, module, steps_done(trainer), epochs_done(trainer))

    def _validate_if_due(self, trainer: Trainer, module: LoraModule, step: int | None, epoch: int | None) -> None:
        if self.loaders and (due(step, self.every_n_steps) or due(epoch, self.every_n_epochs)):
            with module.run.pace.pause():
                self.validate(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        """The end of the run is measured, too, however short the run was."""
        if self.loaders and trainer.global_step > self.last and not module.run.interrupted:
            self.measure(trainer, module)

    def validate(self, trainer: Trainer, module: LoraModule) -> None:
        """Measures, and informs the schedule and the callbacks that depend on it."""
        loss = self.measure(trainer, module)
        schedule = trainer.lr_scheduler_configs[0].scheduler
        if isinstance(schedule, ReduceLROnPlateau):
            schedule.step(loss)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            callback.on_validation_end(trainer, module)

    def measure(self, trainer: Trainer, module: LoraModule) -> float:
        """Measures, logs and keeps the best adapter; returns validation/loss."""
        figures = self.figures(module)
        loss = figures["validation/loss"]
        self.last = trainer.global_step
        trainer.callback_metrics.update({name: torch.tensor(value) for name, value in figures.items()})
        for logger in trainer.loggers:
            logger.log_metrics(figures, trainer.global_step)
        if loss < self.best.get("loss", float("inf")):
            self.best = {"loss": loss, "step": trainer.global_step}
            self._keep_best(trainer, module)
        return loss

    def figures(self, module: LoraModule) -> dict[str, float]:
        with module.looking():
            apart, trained = (self._losses(module, loader).mean(0) for loader in self.loaders)  # (bands,)
        loss, seen = apart.mean().item(), trained.mean().item()
        figures = {"validation/loss": loss, "validation/trained": seen, "validation/gap": loss - seen}
        for band, value in enumerate(apart.tolist()):
            figures[f"validation/loss_by_timestep/{self._name(band)}"] = value
        return figures

    def _losses(self, module: LoraModule, loader: DataLoader) -> Tensor:
        """(N, bands) of a loader's images, on the CPU. A signal ends it between two batches (see signals)."""
        losses = []
        for batch in loader:
            if module.trainer.world_size == 1:  # several go in step
                signals.check()
            losses.append(self._losses_of(module, batch.to(module.device)).cpu())
        return torch.cat(losses)

    def _losses_of(self, module: LoraModule, batch: Batch) -> Tensor:
        """(B, bands)"""
        latents = module.latents(batch, seed=0)  # (B, C, h, w)
        predict = module.predictor(batch, batch.captions)
        bands = []
        for band in range(self.timestep_bands):
            losses = self.plain(
                predict,
                latents,
                module.process,
                batch,
                seed=band,
                timesteps=self.timesteps(band, [draw.index for draw in batch.draws]),
            )
            bands.append(losses.unweighted)
        return torch.stack(bands, dim=1)

    def timesteps(self, band: int, images: list[int]) -> Tensor:
        """(B,) of one band: images differ, so that all together have the band covered."""
        within = torch.tensor([image * GOLDEN % 1 for image in images], dtype=torch.float64)
        return self.plain.timesteps.quantile((band + within) / self.timestep_bands)

    def _name(self, band: int) -> str:
        low, high = (1000 * (band + side) / self.timestep_bands for side in (0, 1))
        return f"{low:03.0f}-{high:03.0f}"

    def _keep_best(self, trainer: Trainer, module: LoraModule) -> None:
        if self.save_best and trainer.is_global_zero:
            with module.evaluation_weights():
                self.output.save(module.adapters, module.run.position[0], trainer.global_step, BEST)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "last": self.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.last = state_dict["best"], state_dict["last"]
