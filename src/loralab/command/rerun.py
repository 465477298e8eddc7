"""`--experimental-rerun FILE`: the configuration of an earlier run, written by Hydra's PickleJobInfoCallback."""

from __future__ import annotations

import builtins
import io
import pickle
import typing
from collections import OrderedDict, defaultdict
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from loralab.command import start
from loralab.errors import user_error
from loralab.schema.compose import fresh

FLAG = "--experimental-rerun"
PLAIN = (dict, list, tuple, set, str, bytes, int, float, bool, object, defaultdict, OrderedDict)
PLAIN += (typing.Any, typing.Dict, typing.List, typing.Optional)  # noqa: UP006


class _Reader(pickle.Unpickler):
    """Unpickles configurations only: any other pickle could call any function."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins":
            found: Any = getattr(builtins, name, None)
        elif module in ("typing", "collections") or module.startswith(("omegaconf.", "hydra.", "hydra_plugins.")):
            found = super().find_class(module, name)  # a dotted name is a nested class
        else:
            found = None
        if not (found in PLAIN or is_dataclass(found) or _is_config(found)):
            raise pickle.UnpicklingError(f"it contains {module}.{name}, which is not part of a configuration")
        return found


def _is_config(found: Any) -> bool:
    """A class of OmegaConf, or an enumeration."""
    return isinstance(found, type) and (found.__module__.startswith("omegaconf.") or issubclass(found, Enum))


def read(path: str) -> DictConfig:
    """The configuration in a file. Raises a UserError where there is none."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise user_error(FLAG, f"'{path}' not found", "give the config.pickle of a run")
    try:
        cfg = _Reader(io.BytesIO(file.read_bytes())).load()
        if isinstance(cfg, DictConfig) and OmegaConf.select(cfg, "hydra.runtime.choices") is not None:
            return cfg
        why = "its `hydra` node is missing"
    except (pickle.UnpicklingError, OmegaConfBaseException) as error:
        why = str(error)
    except Exception as error:  # a damaged pickle can raise anything
        why = f"it is damaged ({type(error).__name__})"
    remedy = "write such a file with +hydra.callbacks.pickle._target_=hydra.experimental.callbacks"
    raise user_error(FLAG, f"'{path}' is not the configuration of a run: {why}", f"{remedy}.PickleJobInfoCallback")


def rerun(path: str, task: TaskFunction) -> None:
    """Runs the task with the configuration in a file, in a fresh folder."""
    cfg = read(path)
    start.run(task, cfg, Path(fresh(str(cfg.hydra.run.dir))), is_trusted=False)
