"""run.json: what a run did, written when it starts, kept up to date, and final at its end."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from loralab.console import is_first
from loralab.errors import Diverged, UserError
from loralab.files import as_json
from loralab.report.environment import environment
from loralab.signals import Interrupted, held
from loralab.urls import without_secrets
from loralab.writing import WriteError, atomic_path


class Record:
    """The record of one run. `facts` is what is written; a run that is killed leaves status "running"."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.path = folder / "run.json"
        self.started = time.time()
        self.unwritten = False
        """Whether the last facts are not on the disk."""
        self.facts: dict[str, Any] = {
            "status": "running",
            "overrides": overrides,
            "started": _date(self.started),
            "steps": 0,
            "seconds": None,
            **environment(),
        }

    def __enter__(self) -> Record:
        if is_first():
            self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            interrupted, diverged = isinstance(error, Interrupted), isinstance(error, Diverged)
            self.facts["status"] = "interrupted" if interrupted else "diverged" if diverged else "failed"
            self.facts["error"] = (
                str(error) if interrupted or isinstance(error, UserError) else without_secrets(repr(error))
            )
        elif self.facts["status"] == "running":
            self.facts["status"] = "finished"
        self.facts["ended"] = _date(time.time())
        self.facts["seconds"] = round(time.time() - self.started, 3)
        with held():
            self.write()

    def add(self, **facts: Any) -> None:
        """Adds facts and writes them."""
        self.facts.update(facts)
        self.write()

    def write(self) -> None:
        """Writes the facts; if that fails, an error is printed once and the run continues."""
        if not is_first():
            return
        try:
            self._write()
            self.unwritten = False
        except WriteError as error:
            self._shorten()
            if not self.unwritten:
                print(f"error: {error.problems[0].found}", file=sys.stderr, flush=True)
            self.unwritten = True

    def _write(self) -> None:
        with atomic_path(self.path, "hydra.run.dir") as beside:
            beside.write_text(as_json(self.facts) + "\n", encoding="utf8")

    def _shorten(self) -> None:
        """On a full disk: overwrites the file with the most important facts, which needs no more space."""
        kept = {key: self.facts[key] for key in ("status", "steps", "error", "files", "errors") if key in self.facts}
        with suppress(OSError), open(self.path, "r+b") as file:
            size = self.path.stat().st_size
            while len(text := as_json(kept).encode()) > size and len(kept) > 1:
                kept.popitem()
            file.write(text.ljust(size))


def record_failure(folder: Path, overrides: list[str], error: Exception) -> None:
    """Writes a record for a run that failed before it had one."""
    if not (folder / "run.json").exists():
        with suppress(type(error)), Record(folder, overrides):
            raise error


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
