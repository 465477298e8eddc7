"""Training states on disk: everything that a run needs to go on exactly where it stopped.

A state is a folder with two files: `state.ckpt`, Lightning's checkpoint with the adapter and nothing of the base model,
and the marker `state.json`. The marker is written last and holds a digest of the other and a checksum of itself:
without it, or where one of them is wrong, a state is damaged. Reading a marker needs nothing heavy.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralab import __version__, signals
from loralab.files import digest_file
from loralab.training.marker import MARKER, TENSORS, DamagedState, State, looks_like_state, read, write

if TYPE_CHECKING:
    from lightning import Trainer


class States:
    """The states of one run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.signature: dict[str, Any] = {}
        """The run's; set before the first state is saved."""
        self.written: list[State] = []

    @signals.held()
    def save(
        self, trainer: Trainer, step: int, epoch: int, batch: int, checkpoint: dict[str, Any] | None = None
    ) -> State:
        """Writes the run as it is after so many steps, or as it was for `checkpoint`; every rank takes part."""
        path = self.folder / f"step{step:08d}"
        if self.written and self.written[-1].path == path:
            return self.written[-1]
        if trainer.is_global_zero:
            shutil.rmtree(path, ignore_errors=True)  # a damaged one of this run that was resumed in its own folder
            path.mkdir(parents=True)
        trainer.strategy.barrier("state folder")
        beside = path / f".{TENSORS}.part"
        if checkpoint is None:
            trainer.save_checkpoint(beside, weights_only=False)
        else:
            trainer.strategy.save_checkpoint(checkpoint, beside)
        schedule = trainer.lr_scheduler_configs[0].scheduler
        state = State(
            path,
            step,
            epoch,
            batch,
            horizon=getattr(schedule, "horizon", None),
            signature=self.signature,
            versions=versions(),
            written=time.time(),
            digest=_finish(beside, path) if trainer.is_global_zero else "",
        )
        if trainer.is_global_zero:
            write(state)
        self.written.append(state)
        return state

    def keep_last(self, count: int) -> None:
        """Removes all but the newest of those that this run wrote: the marker first, so that none looks whole."""
        while len(self.written) > count:
            path = self.written.pop(0).path
            (path / MARKER).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def _finish(beside: Path, path: Path) -> str:
    """Gives the file its name, when all of it is on the disk; returns its digest."""
    with open(beside, "rb+") as file:
        os.fsync(file.fileno())
    beside.rename(path / TENSORS)
    return digest_file(path / TENSORS)


def below(roots: Iterable[Path]) -> list[Path]:
    """The folders of all states under these, damaged ones among them, newest first."""
    found = {path.resolve(): path for root in roots for path in _below(root)}
    return sorted(found.values(), key=_time, reverse=True)


def readable(path: Path) -> State | None:
    """The state in a folder, where its marker is well."""
    try:
        return read(path)
    except DamagedState:
        return None


def _below(root: Path) -> Iterator[Path]:
    for folder, names, _ in os.walk(root):
        if Path(folder).name == "states":
            yield from (Path(folder, name) for name in names if looks_like_state(Path(folder, name)))
            names.clear()


def _time(path: Path) -> tuple[float, str]:
    """When a state was written; a damaged one tells by its folder."""
    state = readable(path)
    return state.written if state else path.stat().st_mtime, path.name


def versions() -> dict[str, str]:
    """Of what decides how a run computes."""
    return {"loralab": __version__} | {name: importlib.metadata.version(name) for name in ("torch", "lightning")}
