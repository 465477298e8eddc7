"""The settings in TensorBoard: as text, and as hyperparameters beside the final figures."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from loralab.files import as_json
from loralab.schema.tree import get
from loralab.training.run_state import RunState

KEYS = (
    "seed",
    "model.base",
    "model.clip_skip",
    "adapter._target_",
    "adapter.rank",
    "adapter.alpha",
    "adapter.dropout",
    "targets.unet_lr",
    "targets.text_encoder_lr",
    "optimizer._target_",
    "optimizer.lr",
    "optimizer.weight_decay",
    "scheduler._target_",
    "data.resolution",
    "data.batch_size",
    "trainer.precision",
    "trainer.accumulate_grad_batches",
)
"""The settings that runs are usually compared by, as columns of TensorBoard's table."""


class HParams(Callback):
    """Logs the composed configuration when training starts, and the final losses when it ends."""

    def __init__(self, *, run: RunState) -> None:
        self.settings = run.settings

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        text = as_json(self.settings)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_text("settings", f"```json\n{text}\n```", trainer.global_step)
            else:
                logger.log_hyperparams(self.settings)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        final = {name: value for name, value in trainer.callback_metrics.items() if "loss" in name}
        found = {key: get(self.settings, key) for key in KEYS}
        columns = {_named(key): _short(key, value) for key, value in found.items() if value is not None}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(columns, {f"final/{name}": float(value) for name, value in final.items()})


def _named(key: str) -> str:
    """`optimizer._target_` is the column "optimizer"."""
    return key.removesuffix("._target_")


def _short(key: str, value: Any) -> Any:
    """Of an import path only the last name."""
    return value.rsplit(".", 1)[-1] if key.endswith("._target_") else value
