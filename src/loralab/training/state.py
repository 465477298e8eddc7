"""Training states on disk: everything that a run needs to resume exactly where it stopped.

A state is a folder with two files: `state.ckpt`, Lightning's checkpoint with the adapter and nothing of the base model,
and the marker `state.json`. The marker is written last and holds a digest of the other and a checksum of itself:
without it, or where one of them is wrong, a state is damaged. Reading a marker needs nothing heavy.
"""

from __future__ import annotations

import importlib.metadata
import io
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralab import __version__, signals
from loralab.files import digest_file
from loralab.training.fallback import Fallback
from loralab.training.internals import dump_checkpoint
from loralab.training.marker import MARKER, TENSORS, DamagedState, State, looks_like_state, read, write
from loralab.training.run_state import RunState
from loralab.writing import atomic_folder, atomic_path, unused

if TYPE_CHECKING:
    from lightning import Trainer


class States:
    """The states of one run, in one folder."""

    def __init__(self, run: RunState, fallback: Fallback) -> None:
        self.run, self.folder, self.fallback = run, run.folder / "states", fallback
        self.written: list[State] = []

    @signals.held()
    def save(
        self, trainer: Trainer, step: int, epoch: int, batch: int, checkpoint: dict[str, Any] | None = None
    ) -> State:
        """Writes the run as it is after so many steps, or as it was for `checkpoint`; every rank takes part.

        Raises a WriteError where it can be written nowhere.
        """
        if self.written and self.written[-1].step == step:
            return self.written[-1]
        if checkpoint is None:
            self.run.assure()
            checkpoint = dump_checkpoint(trainer)
        schedule = trainer.lr_scheduler_configs[0].scheduler
        state = State(
            self.folder / f"step{step:08d}",
            step,
            epoch,
            batch,
            horizon=getattr(schedule, "horizon", None),
            signature=self.run.signature,
            versions=versions(),
            written=time.time(),
            digest="",
        )
        if trainer.is_global_zero:
            state = self._write(state, checkpoint)
        trainer.strategy.barrier("state")
        self.written.append(state)
        return state

    def _write(self, state: State, checkpoint: dict[str, Any]) -> State:
        """Where it was written: not over a whole state, which a run resumed in its own folder finds."""
        with suppress(DamagedState):
            there = read(state.path).check()
            if there.signature == state.signature:
                return there
            state = replace(state, path=unused(state.path))
        path = self.fallback.write(state.path, lambda place: _write(place, state, checkpoint))
        return read(path)

    def keep_last(self, count: int) -> None:
        """Removes all but the newest of those that this run wrote: the marker first, so that none looks whole."""
        while len(self.written) > count:
            path = self.written.pop(0).path
            (path / MARKER).unlink(missing_ok=True)
            shutil.rmtree(path, ignore_errors=True)


def _write(path: Path, state: State, checkpoint: dict[str, Any]) -> None:
    """The marker last: without it a state is damaged. Raises a WriteError."""
    import torch

    buffer = io.BytesIO()  # torch has no clear error for a full disk
    torch.save(checkpoint, buffer)
    with atomic_folder(path, "hydra.run.dir") as beside:
        beside.mkdir()
        with atomic_path(beside / TENSORS, "hydra.run.dir") as tensors:
            tensors.write_bytes(buffer.getbuffer())
        write(replace(state, path=beside, digest=digest_file(beside / TENSORS)))


def below(roots: Iterable[Path]) -> list[Path]:
    """The folders of all states under these, damaged ones among them, newest first."""
    found = {path.resolve(): path for root in roots for path in _below(root)}
    return sorted(found.values(), key=_time, reverse=True)


def readable(path: Path) -> State | None:
    """The state in a folder, if its marker is valid."""
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
    """When a state was written; for a damaged one, its folder's time."""
    state = readable(path)
    return state.written if state else path.stat().st_mtime, path.name


def versions() -> dict[str, str]:
    """Versions of the packages that affect results."""
    return {"loralab": __version__} | {name: importlib.metadata.version(name) for name in ("torch", "lightning")}
