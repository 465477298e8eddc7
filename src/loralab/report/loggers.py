"""What a run adds to its loggers' settings: where they write, and what it is called there."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from loralab.schema.compose import fresh
from loralab.schema.tree import get
from loralab.training.run_state import RunState
from loralab.writing import in_turn

LONGEST = 200
"""Bytes of a name: file systems take 255 for a folder, and `fresh` may add a number."""


def placed(node: dict[str, Any], run: RunState, sweep: Path | None) -> dict[str, Any]:
    """Values for the settings that a logger's node does not set.

    By default a logger writes into the run's folder, in a sweep below what sets the run apart, as TensorBoard names its
    curves by folders; in a `save_dir` that runs share, each gets a folder of its name. sweep: the folder of the sweep.
    """
    name = run_name(run.folder, run.own, get(run.settings, "run.name"), sweep)
    if not node.get("save_dir"):
        given: dict[str, Any] = {"save_dir": str(run.folder)}
        given |= {"version": _joined(map(leaf, run.own))} if node.get("version", "") is None else {}
    elif "version" in node and node["version"] is None:
        shared = Path(node["save_dir"]).expanduser() / str(node.get("name") or "")
        given = {"version": Path(fresh(str(shared / name))).name}
    else:
        given = {}
    return given | _told(node, name, run, None if sweep is None else run_name(sweep, []))


def alone(address: str | None) -> AbstractContextManager[None]:
    """In which a logger is opened; address: MLflow's, None for other loggers.

    MLflow makes the tables of a new database without a lock: two runs that start at once would damage it, so one waits.
    """
    if not str(address).startswith("sqlite"):
        return nullcontext()
    user = os.getuid() if hasattr(os, "getuid") else 0
    return in_turn(Path(tempfile.gettempdir()) / f"loralab-mlflow-{user}.lock")


def _told(node: dict[str, Any], name: str, run: RunState, group: str | None) -> dict[str, Any]:
    """Name, group and tags of a run for Weights & Biases, and for MLflow, which has tags with values."""
    tags = [str(tag) for tag in get(run.settings, "run.tags") or []]
    if "project" in node:
        given: dict[str, Any] = {} if node.get("name") else {"name": name}
        given |= {} if node.get("group") or group is None else {"group": group}
        return given | {"tags": list(dict.fromkeys([*(node.get("tags") or []), *tags]))}
    if "experiment_name" in node:
        own = {"group": group, "tags": ", ".join(tags)}
        own = {key: value for key, value in own.items() if value} | dict(node.get("tags") or {})
        return ({} if node.get("run_name") else {"run_name": name}) | {"tags": own}
    return {}


def run_name(folder: Path, own: list[str], name: Any = None, sweep: Path | None = None) -> str:
    """`run.name`, else the folder below outputs/ or multirun/, else its last part; in a sweep also the run's number and
    the overrides of its own."""
    parts = folder.parts
    below = next((n for n in range(len(parts) - 1, 0, -1) if parts[n - 1] in ("outputs", "multirun")), len(parts) - 1)
    words = parts[below:] if name is None else [str(name), *([] if sweep is None else parts[-1:])]
    return _joined([*words, *map(leaf, own)])


def _joined(words: Any) -> str:
    """As one name that a folder can have, on Windows, too."""
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "-", "_".join(words))
    return name.encode("utf8", "replace")[:LONGEST].decode("utf8", "ignore").rstrip(" .")


def leaf(override: str) -> str:
    """optimizer.lr=1e-4 becomes lr=1e-4."""
    key, equals, value = override.lstrip("+").partition("=")
    return f"{key.rpartition('.')[2]}{equals}{value}"


def finish(exit_code: int) -> None:
    """Ends the run at Weights & Biases; the next run of this process would continue it otherwise."""
    if wandb := sys.modules.get("wandb"):
        wandb.finish(exit_code=exit_code)
