"""What a run adds to its loggers' settings: where they write, and a name for the run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from loralab.schema.compose import fresh


def placed(node: dict[str, Any], folder: Path, own: list[str], sweep: Path | None) -> dict[str, Any]:
    """Values for the settings that a logger's node does not set.

    By default a logger writes into the run's folder; in a `save_dir` that runs share, each gets a folder of its name.
    folder: of the run; own: the overrides that set it apart in its sweep; sweep: the folder of the sweep.
    """
    name = run_name(folder, own)
    if not node.get("save_dir"):
        given: dict[str, Any] = {"save_dir": str(folder)} | ({"version": ""} if "version" in node else {})
    elif "version" in node and node["version"] is None:
        shared = Path(node["save_dir"]).expanduser() / str(node.get("name") or "")
        given = {"version": Path(fresh(str(shared / name))).name}
    else:
        given = {}
    if "project" in node:  # Weights & Biases
        given |= {} if node.get("name") else {"name": name}
        given |= {} if node.get("group") or sweep is None else {"group": run_name(sweep, [])}
    return given


def run_name(folder: Path, own: list[str]) -> str:
    """The run's folder below outputs/ or multirun/, else its last part; in a sweep also the overrides of its own."""
    parts = folder.parts
    below = next((n for n in range(len(parts) - 1, 0, -1) if parts[n - 1] in ("outputs", "multirun")), len(parts) - 1)
    words = [*parts[below:], *(word.rpartition(".")[2] if "=" not in word else _leaf(word) for word in own)]
    return "_".join(word.replace("/", "-") for word in words)[:120]


def _leaf(override: str) -> str:
    """optimizer.lr=1e-4 becomes lr=1e-4."""
    key, _, value = override.partition("=")
    return f"{key.rpartition('.')[2]}={value}"


def finish(exit_code: int) -> None:
    """Ends the run at Weights & Biases; the next run of this process would continue it otherwise."""
    if wandb := sys.modules.get("wandb"):
        wandb.finish(exit_code=exit_code)
