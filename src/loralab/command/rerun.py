"""The configuration of an earlier run, to run it again: from its folder, or for `--experimental-rerun FILE` from the
pickle that Hydra's PickleJobInfoCallback writes.

Nothing that a file says is executed: classes are those of the allow-list, which a file cannot extend, and of the
`hydra` node neither callbacks and logging nor environment variables are used.
"""

from __future__ import annotations

import builtins
import io
import pickle
import sys
import typing
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from loralab.command import start
from loralab.errors import UserError, user_error
from loralab.schema.compose import CONF, compose, fresh, rename
from loralab.schema.settings import written
from loralab.schema.sources import raw

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
            with open_dict(cfg):
                for words in rename(cfg):
                    print(f"note: {words}", file=sys.stderr)
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
    with read_write(cfg.hydra), open_dict(cfg):
        cfg.hydra.overrides.task = _without_allow(cfg.hydra.overrides.task)
        cfg.hydra.job.env_set = {}
    start.run(task, cfg, Path(fresh(str(cfg.hydra.run.dir))), is_trusted=False)


def of_folder(folder: Path, allow: list[str]) -> DictConfig:
    """The configuration of the run in a folder, as far as it counts for its result.

    allow: further classes that it may name. Raises a UserError where it has none.
    """
    try:
        ours, theirs = (OmegaConf.load(folder / "config" / f"{name}.yaml") for name in ("config", "hydra"))
        said = _said(OmegaConf.to_container(theirs, resolve=False))
        assert isinstance(ours, DictConfig)
    except (AssertionError, AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        raise _not_a_run(folder, error) from None
    except (YAMLError, OmegaConfBaseException) as error:
        raise _not_a_run(folder, error) from None
    cfg = compose([_allow(allow)] if allow else []).cfg
    first = {key: value for key, value in raw(CONF / "train.yaml").items() if key not in ("defaults", "hydra")}
    rename(ours)
    with read_write(cfg.hydra), open_dict(cfg):
        for key in [key for key in cfg if key != "hydra"]:
            del cfg[key]
        cfg.merge_with(first, ours, {"allow": allow, "settings": first["settings"]})
        cfg.output.folder, cfg.resume, cfg.resume_force, cfg.reuse = None, None, False, False
        cfg.hydra.overrides.task = [*_without_allow(said["task"]), *([_allow(allow)] if allow else [])]
        cfg.hydra.runtime.choices.update(said["choices"])
        cfg.hydra.job.update(said["job"])
    HydraConfig.instance().set_config(cfg)
    return cfg


def _said(file: Any) -> dict[str, Any]:
    """What a hydra.yaml says of how its run was composed: overrides, choices, and its number in a sweep."""
    hydra = file["hydra"]
    choices = {group: option for group, option in hydra["runtime"]["choices"].items() if not group.startswith("hydra/")}
    job = {key: hydra["job"][key] for key in ("num", "id") if hydra["job"][key] != "???"}
    return {"task": [*map(str, hydra["overrides"]["task"])], "choices": choices, "job": job}


def _allow(names: list[str]) -> str:
    return f"allow={written(names)}"


def _without_allow(overrides: Iterable[str]) -> list[str]:
    """What may be built says who starts a run, not its file."""
    return [o for o in overrides if o.lstrip("+").partition("=")[0] != "allow"]


def _not_a_run(folder: Path, error: Exception) -> UserError:
    why = "not found" if isinstance(error, FileNotFoundError) else f"damaged ({type(error).__name__})"
    found = f"its config/config.yaml or config/hydra.yaml is {why}"
    return user_error(str(folder), found, "give the folder of a run as it was written, with hydra.output_subdir=config")
