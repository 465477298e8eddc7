"""Where curves are logged to."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce

LOGGERS = coerce.OneOf(tensorboard="tensorboard", wandb="wandb", all="many")


def logs(foreign: Foreign, ours: Ours) -> None:
    logger = foreign.take("log_with", LOGGERS)
    if logger is not None:
        ours.choose("logger", logger, "log_with")
        if logger == "many":
            foreign.warnings.append("logs to all trackers: here to TensorBoard and CSV")
    logger = ours.chosen("logger")
    name = foreign.take("wandb_run_name", coerce.text)
    if name and logger == "wandb":
        ours.set("logger.wandb.name", name, "wandb_run_name")
    else:
        foreign.leave("wandb_run_name", "has no effect without Weights & Biases")
    if logger == "wandb" and ours.drop("logger.tensorboard.save_dir"):
        foreign.leave("logging_dir", "has no effect with Weights & Biases")
