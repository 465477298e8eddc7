"""What a sweep prints: each run as it starts, a table of all at the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from loralab.command import sweep
from loralab.command.overrides import parse
from loralab.command.run_folder import RECORD
from loralab.report.gather import run_folders
from loralab.report.run import VALIDATION, Run, glance, is_finite, to_optimise
from loralab.schema.settings import written
from loralab.scorers.scores import SCORES


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
class Runs:
    """The runs of a sweep's folder that were started since; `swept` are its overrides."""

    folder: Path
    swept: list[Override]
    since: float
    total: int | None
    """How many there should be, if known."""
    metric: str | None = None
    """What a search goes by; None: the default."""

    @cached_property
    def runs(self) -> list[Run]:
        folders = run_folders([self.folder])
        return [glance(folder) for folder in folders if (folder / RECORD).stat().st_mtime >= self.since]

    def failed(self, search: bool) -> bool:
        """Whether one failed or was interrupted; in a search, points that diverge do not count."""
        wrong = [run for run in self.runs if run.has_failed or run.status == "interrupted"]
        return bool([run for run in wrong if not (search and run.status == "diverged")] or self.missing)

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
            (" ".join(sweep.own(run.overrides, self.swept)), run.how, _result(run), _near(run.folder))
            for run in self.runs
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for run, row in zip(self.runs, rows, strict=True):
            lines.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            lines += [f"      {why}" for why in run.errors]
        return "\n".join([*lines, *self._over_seeds(), *self._best()])

    def _over_seeds(self) -> Iterator[str]:
        """Where seeds are swept: mean and spread of the validation loss of runs that differ by their seed only, the
        lowest mean first, and how far the others lie above it."""
        groups: dict[str, dict[str, float]] = {}
        for run in self.runs:
            own = sweep.own(run.overrides, self.swept)
            seed, loss = next((o for o in own if o.startswith("seed=")), None), run.metrics.get(VALIDATION)
            if seed and is_finite(loss) and not run.has_failed:
                groups.setdefault(" ".join(o for o in own if o != seed), {})[seed] = loss  # type: ignore[assignment]
        if not groups:
            return
        from loralab.report.seeds import standings  # numpy: not where a mistake is to be told at once

        found = dict(zip(groups, standings([*groups.values()]), strict=True))
        yield f"  {VALIDATION} over seeds:"
        for name, standing in sorted(found.items(), key=lambda pair: pair[1].mean or 0):
            words = "" if standing.is_best else standing.verdict("lowest")
            figure = f"{standing.mean:.4f}" + (f" ± {standing.spread:.4f}" if standing.spread is not None else "")
            yield f"    {'  '.join(filter(None, (name, figure, words)))}"

    def _best(self) -> Iterator[str]:
        """The run with the lowest validation loss; and that with the best value of what a search goes by."""
        done = [run for run in self.runs if not run.has_failed and is_finite(to_optimise(run.facts))]
        for metric in dict.fromkeys((VALIDATION, self.metric or VALIDATION)):
            values = [to_optimise(run.facts, metric) for run in done]
            if len(done) > 1 and all(map(is_finite, values)):
                pick, word = (max, "highest") if metric in SCORES else (min, "lowest")
                yield f"  {word} {metric}: {_near(done[values.index(pick(values))].folder)}"  # type: ignore[type-var]


def _result(run: Run) -> str:
    """Its loss and its scores."""
    scores = [f"{name} {run.metrics[name]:.4f}" for name in SCORES if is_finite(run.metrics.get(name))]
    return "  ".join(filter(None, [run.result, *scores]))


def _near(path: Path) -> str:
    """A path relative to the working folder, if it is inside."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
