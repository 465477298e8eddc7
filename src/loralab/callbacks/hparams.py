"""The settings of a run in its loggers; in TensorBoard also as a row of the table of its sweep."""
# pyright: reportAttributeAccessIssue=false
# (protobuf makes its classes when it is imported)

from __future__ import annotations

import json
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo, SessionStartInfo

from loralab.files import as_json
from loralab.schema.tree import get, leaves
from loralab.scorers.scorer import SETTING as SCORER
from loralab.scorers.scores import SCORES
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
"""The settings that runs are usually compared by: columns besides those that are swept."""
METRICS = ("validation/loss", "validation/gap", "loss_epoch", "images_per_second", "memory_gb")
"""Curves whose last values are columns; TensorBoard shows five at first. `validation/…` needs held-out images."""


class HParams(Callback):
    """Gives every logger the composed configuration when training starts, by dotted keys.

    TensorBoard's HParams tab has a row for each run, with the last value of each metric, also while it trains. Its
    columns are those that any one of the runs names: all runs of a sweep name the same, what is swept first.
    """

    def __init__(self, *, run: RunState) -> None:
        self.run = run

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        settings = {key: _cell(value, json.dumps(value)) for key, value in leaves(self.run.settings)}
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(settings)
        text = f"```json\n{as_json(self.run.settings)}\n```"
        for writer in _writers(trainer):
            writer.add_text("settings", text, trainer.global_step)
        values = columns(self.run.settings, self.run.own)
        held_out = trainer.datamodule.summary()["held_out"]  # type: ignore[attr-defined]
        metrics = [name for name in METRICS if held_out or not name.startswith("validation/")]
        metrics += SCORES if get(self.run.settings, SCORER) else ()
        _write(trainer, metadata.EXPERIMENT_TAG, experiment=_table(values, self.run.own, metrics))
        _write(trainer, metadata.SESSION_START_INFO_TAG, session_start_info=_row(values))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._end(trainer, "STATUS_FAILURE" if self.run.interrupted else "STATUS_SUCCESS")

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._end(trainer, "STATUS_FAILURE")

    def _end(self, trainer: Trainer, status: str) -> None:
        end = SessionEndInfo(status=api_pb2.Status.Value(status), end_time_secs=time.time())
        _write(trainer, metadata.SESSION_END_INFO_TAG, session_end_info=end)


def columns(settings: dict[str, Any], own: list[str]) -> dict[str, Any]:
    """The usual settings, and those of the overrides that are swept; of a group, the name of its option."""
    found: dict[str, Any] = {}
    for key in KEYS:
        value = get(settings, key)
        name = key.removesuffix("._target_")
        found[name] = _cell(value.rpartition(".")[2] if value and name != key else value, str(value))
    for override in own:
        key, _, text = _key_and_text(override)
        value = get(settings, key, text)
        found[key] = _cell(value, text)
    return found


def _cell(value: Any, text: str) -> bool | int | float | str | None:
    """What a cell can have: for a mapping or a list its text."""
    return value if value is None or isinstance(value, bool | int | float | str) else text


def _key_and_text(override: str) -> tuple[str, str, str]:
    return override.lstrip("+").partition("=")


def _table(values: dict[str, Any], own: list[str], metrics: list[str]) -> api_pb2.Experiment:
    """The columns of TensorBoard's table: `differs` puts those that are swept first."""
    swept = {_key_and_text(override)[0] for override in own}
    kinds = {bool: api_pb2.DATA_TYPE_BOOL, int: api_pb2.DATA_TYPE_FLOAT64, float: api_pb2.DATA_TYPE_FLOAT64}
    settings = [
        api_pb2.HParamInfo(name=name, type=kinds.get(type(value), api_pb2.DATA_TYPE_STRING), differs=name in swept)
        for name, value in values.items()
    ]
    infos = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name)) for name in metrics]
    return api_pb2.Experiment(hparam_infos=settings, metric_infos=infos)


def _row(values: dict[str, Any]) -> SessionStartInfo:
    """The cells of a run; one without a value is empty."""
    start = SessionStartInfo(start_time_secs=time.time())
    for name, value in values.items():
        if value is not None:
            kind = {bool: "bool_value", str: "string_value"}.get(type(value), "number_value")
            setattr(start.hparams[name], kind, value)
    return start


def _write(trainer: Trainer, tag: str, **content: Any) -> None:
    """Writes a summary of TensorBoard's plugin, whose own functions for this need TensorFlow; torch's `add_hparams`
    makes a second run of it, and cannot say what is swept.
    """
    about = metadata.create_summary_metadata(HParamsPluginData(**content))
    value = Summary.Value(tag=tag, metadata=about, tensor=metadata.NULL_TENSOR)
    for writer in _writers(trainer):
        writer._get_file_writer().add_summary(Summary(value=[value]))


def _writers(trainer: Trainer) -> list[Any]:
    """TensorBoard's, of the first process."""
    boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
    return [board.experiment for board in boards if trainer.is_global_zero]
