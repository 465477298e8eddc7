"""What a sweep prints: each run as it starts, a table of all at the end."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from loralab.command import sweep
from loralab.command.overrides import parse
from loralab.schema.settings import written

VALIDATION = "validation/loss"


class Announce(Callback):
    """A Hydra callback: prints the number and overrides of each run, in the process in which it starts."""

    def __init__(self, total: int | None, swept: list[str]) -> None:
        self.total, self.swept = total, swept

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        own = sweep.own(config.hydra.overrides.task, parse(self.swept)[0])
        of = f" of {self.total}" if self.total else ""
        print(f"\nrun {config.hydra.job.num + 1}{of}: {' '.join(own)}", flush=True)


def announced(swept: list[Override], total: int | None) -> str:
    """The override that adds Announce to Hydra's callbacks."""
    words = written([o.input_line or "" for o in swept if o.is_sweep_override()])
    announce = f"{{_target_: {Announce.__module__}.Announce, total: {written(total)}, swept: {words}}}"
    return f"++hydra.callbacks.{sweep.ANNOUNCE}={announce}"


@dataclass(frozen=True)
class Run:
    """One run, as recorded in its run.json."""

    folder: Path
    facts: dict[str, Any]

    @property
    def status(self) -> str:
        """A record that still says "running" is that of a killed run."""
        status = str(self.facts.get("status"))
        return "killed" if status == "running" else status

    @property
    def how(self) -> str:
        """Its status, and whether it took over the result of another, or what ended it early."""
        stopped = str(self.facts.get("stopped") or "").partition(" at step")[0]
        why = "reused" if self.facts.get("reused") else stopped
        return f"{self.status} ({why})" if why else self.status

    @property
    def failed(self) -> bool:
        return self.status not in ("finished", "interrupted") or bool(self.facts.get("errors"))

    @property
    def loss(self) -> float | None:
        return to_minimise(self.facts)

    @property
    def figure(self) -> str:
        kind = VALIDATION if VALIDATION in self.facts.get("metrics", {}) else "loss"
        return "" if self.loss is None else f"{kind} {self.loss:.4f}"

    @property
    def why(self) -> list[str]:
        """What went wrong, one line per error."""
        errors = [*self.facts.get("errors", []), self.facts.get("error")]
        return [str(error).splitlines()[0] for error in errors if error]


@dataclass(frozen=True)
class Runs:
    """The runs of a sweep's folder that were started since; `swept` are its overrides."""

    folder: Path
    swept: list[Override]
    since: float
    total: int | None
    """How many there should be, if known."""

    @cached_property
    def runs(self) -> list[Run]:
        found = []
        for file in self.folder.rglob("run.json"):
            try:
                if file.stat().st_mtime >= self.since:
                    found.append(Run(file.parent, dict(json.loads(file.read_text("utf8")))))
            except (OSError, ValueError, TypeError):
                found.append(Run(file.parent, {"status": "damaged"}))
        return sorted(found, key=lambda run: (len(str(run.folder)), str(run.folder)))

    def failed(self, search: bool) -> bool:
        """Whether one failed; in a search, points that diverge do not count."""
        failed = [run for run in self.runs if run.failed and not (search and run.status == "diverged")]
        return bool(failed or self.missing)

    @property
    def missing(self) -> int:
        """The number of runs without a record."""
        return max(0, (self.total or 0) - len(self.runs))

    def table(self) -> str:
        """A heading; for each run its own overrides, status, loss and folder, followed by its errors."""
        statuses = Counter(run.status for run in self.runs)
        statuses["without a record"] = self.missing
        counts = ", ".join(f"{count} {status}" for status, count in statuses.items() if count)
        lines = [f"\nsweep: {max(len(self.runs), self.total or 0)} runs: {counts} · {_near(self.folder)}"]
        rows = [
            (" ".join(sweep.own(run.facts.get("overrides", []), self.swept)), run.how, run.figure, _near(run.folder))
            for run in self.runs
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for run, row in zip(self.runs, rows, strict=True):
            lines.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            lines += [f"      {why}" for why in run.why]
        return "\n".join([*lines, *self._best()])

    def _best(self) -> list[str]:
        """The run with the lowest validation loss."""
        finite = [run for run in self.runs if not run.failed and run.loss is not None and math.isfinite(run.loss)]
        best = min(finite, key=lambda run: run.loss or 0.0, default=None)
        comparable = best and all(VALIDATION in run.facts.get("metrics", {}) for run in finite)
        return [f"  lowest {VALIDATION}: {_near(best.folder)}"] if comparable and best and len(finite) > 1 else []


def to_minimise(facts: dict[str, Any]) -> float | None:
    """The validation loss if there is one, else the training loss; infinite if it is not finite."""
    loss = facts.get("metrics", {}).get(VALIDATION, facts.get("loss"))
    return loss if loss is None or math.isfinite(loss) else math.inf


def _near(path: Path) -> str:
    """A path relative to the working folder, if it is inside."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
