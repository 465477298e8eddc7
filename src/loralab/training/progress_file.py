"""progress.json: how far a run is, written while it trains, for who watches it from outside."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from loralab.writing import atomic_path

NAME = "progress.json"


@dataclass(frozen=True)
class Progress:
    """None stands for what is not known (yet)."""

    step: int
    """Optimizer steps done."""
    steps: int | None = None
    """All that the run is to take."""
    images_per_second: float | None = None
    seconds_left: float | None = None
    loss: float | None = None
    """Of the training, smoothed."""
    validation_loss: float | None = None
    """The last one."""

    def write(self, folder: Path) -> None:
        """Raises a WriteError where it cannot be written."""
        with atomic_path(folder / NAME, "hydra.run.dir", flush=False) as beside:
            beside.write_text(json.dumps(asdict(self)), encoding="utf8")


def read(folder: Path) -> Progress | None:
    """The progress of the run in a folder, its time left as of now; None where there is none, or it is damaged."""
    try:
        facts = json.loads((folder / NAME).read_text(encoding="utf8"))
        found, age = Progress(**facts), time.time() - (folder / NAME).stat().st_mtime
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    numbers = all(value is None or isinstance(value, int | float) for value in facts.values())
    if not numbers or not isinstance(found.step, int):
        return None
    left = found.seconds_left
    return replace(found, seconds_left=None if left is None or math.isnan(left) else max(0.0, left - max(0.0, age)))
