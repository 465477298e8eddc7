"""Whether the disks have room for the files of a run: a lower bound, so that no run is refused that could finish."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from loralab.adapters.file import DTYPES
from loralab.adapters.inject import AdapterSet
from loralab.errors import Problem
from loralab.places import existing, output_folder

Settings = Mapping[str, Any]


def room_problems(
    settings: Settings, adapters: AdapterSet, run_folder: Path, steps: int, epochs: int
) -> Iterator[Problem]:
    """A problem for each disk with less room than adapter files and training states will take.

    steps: optimizer steps to make, epochs: whole ones.
    """
    output = settings["output"]
    state = adapters.state(output["layout"])  # which may not hold these adapters: better said now than in the end
    file = sum(tensor.numel() for tensor in state.values()) * DTYPES[output["precision"]].itemsize
    values = sum(tensor.numel() for tensor in adapters.parameters() if tensor.requires_grad)
    whole = 4 * (sum(tensor.numel() for tensor in state.values()) + values * _copies(settings))
    exports, callbacks = _kept(settings, "export", steps, epochs), settings["callbacks"]
    states = _kept(settings, "state", steps, epochs) if callbacks.get("state", {}).get("enabled") else 0
    folder = output_folder(output["folder"], run_folder)
    wanted = [
        ("output.folder" if folder != run_folder else "hydra.run.dir", folder, exports, file, "adapter files"),
        ("hydra.run.dir", run_folder, states, whole, "training states"),
    ]
    disks: dict[int, list[tuple[str, Path, int, int, str]]] = {}
    for entry in wanted:
        disks.setdefault(os.stat(existing(entry[1])).st_dev, []).append(entry)
    for entries in disks.values():
        setting, place = entries[0][:2]
        size, free = sum(count * each for *_, count, each, _ in entries), shutil.disk_usage(existing(place)).free
        if size > free:
            parts = ", ".join(f"{count} {what} of {megabytes(each)}" for *_, count, each, what in entries if count)
            found = f"{megabytes(size)} needed on the disk of {place} ({parts}), but only {megabytes(free)} free"
            remedy = "free some space, choose another folder, or keep fewer: callbacks.export.keep_last, "
            yield Problem(setting, found, remedy + "callbacks.state.keep_last")


def _kept(settings: Settings, name: str, steps: int, epochs: int) -> int:
    """How many files or states are there in the end; one of them is the last."""
    node = settings["callbacks"].get(name) or {}
    made = sum(
        done // every
        for done, every in ((steps, node.get("every_n_steps")), (epochs, node.get("every_n_epochs")))
        if every
    )
    if name == "state":  # the last one is among those that are kept
        return min(made + 1, node.get("keep_last") or made + 1)
    return min(made, node.get("keep_last") or made) + 1


def _copies(settings: Settings) -> float:
    """What a state holds of each trained value beside it: moments, where they are known, and an average."""
    optimizer = settings["optimizer"]["_target_"].lower()
    moments = 0.5 if "8bit" in optimizer else 2 if "adam" in optimizer else 0
    return moments + bool(settings["ema"]["decay"])


def megabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
