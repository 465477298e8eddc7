"""run.json: what a run did, written when it starts, kept up to date, and final at its end."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from loralab import __version__
from loralab.console import is_first
from loralab.errors import UserError
from loralab.files import as_json, atomic_path
from loralab.signals import Interrupted, held

LIBRARIES = ("torch", "lightning", "diffusers", "transformers", "bitsandbytes", "safetensors", "hydra-core")


class Record:
    """The record of one run. `facts` is what is written; a run that dies without a word leaves status "running"."""

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.path = folder / "run.json"
        self.started = time.time()
        self.facts: dict[str, Any] = {
            "status": "running",
            "overrides": overrides,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.started)),
            "steps": 0,
            "seconds": None,
            "versions": _versions(),
        }

    def __enter__(self) -> Record:
        self.write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is not None:
            interrupted = isinstance(error, Interrupted)
            self.facts["status"] = "interrupted" if interrupted else "failed"
            self.facts["error"] = str(error) if interrupted or isinstance(error, UserError) else repr(error)
        elif self.facts["status"] == "running":
            self.facts["status"] = "finished"
        self.facts["seconds"] = round(time.time() - self.started, 3)
        with held():
            self.write()

    def add(self, **facts: Any) -> None:
        """Adds facts and writes them."""
        self.facts.update(facts)
        self.write()

    def write(self) -> None:
        if not is_first():
            return
        with atomic_path(self.path) as beside:
            beside.write_text(as_json(self.facts) + "\n", encoding="utf8")


def _versions() -> dict[str, str]:
    found = {"loralab": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:  # an optional one
            continue
    return found
