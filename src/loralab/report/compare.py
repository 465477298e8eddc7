"""`loralab compare RUN…`: runs side by side, as text, JSON, or a page with their pictures."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Column, Table

from loralab.config.compose import register_resolvers
from loralab.errors import user_error
from loralab.files import atomic_path
from loralab.tools.show_config import leaves

FIGURES = ("status", "steps", "seconds", "images_per_second", "loss")
METRIC = "validation/loss"


@dataclass(frozen=True, slots=True)
class Run:
    """A finished or unfinished run's folder, read back."""

    folder: Path
    record: dict[str, Any]
    settings: dict[str, Any]
    """By dotted key."""

    @property
    def grid(self) -> Path:
        """Its pictures on a sheet, where it made some."""
        return self.folder / "samples" / "grid.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or folders that hold some"
    )
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with the runs' pictures")


def main(args: argparse.Namespace) -> None:
    runs = [read(record.parent) for folder in args.folders for record in sorted(folder.rglob("run.json"))]
    if not runs:
        raise user_error("FOLDER", f"no run.json under {', '.join(map(str, args.folders))}", "give a run's folder")
    differing = differences(runs)
    rows = [{"run": str(run.folder), **figures(run), **{k: run.settings.get(k) for k in differing}} for run in runs]
    if args.html:
        from loralab.report.page import page

        pictures = {str(run.folder): run.grid for run in runs if run.grid.is_file()}
        with atomic_path(args.html) as beside:
            beside.write_text(page(sheet(rows), pictures), encoding="utf8")
    print(json.dumps(rows, indent=2, ensure_ascii=False)) if args.json else Console().print(_table(sheet(rows)))


def read(folder: Path) -> Run:
    """The record and the resolved settings of a run."""
    register_resolvers()
    config = folder / "config" / "config.yaml"
    tree = OmegaConf.to_container(OmegaConf.load(config), resolve=True) if config.is_file() else {}
    record = json.loads((folder / "run.json").read_text(encoding="utf8"))
    return Run(folder, record, dict(leaves(tree)))  # type: ignore[arg-type]


def differences(runs: list[Run]) -> list[str]:
    """Settings that are not the same in all of the runs; without those that others only take their default from."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.startswith("suggested."))
    return [key for key in keys if any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)]


def figures(run: Run) -> dict[str, Any]:
    found = {name: run.record[name] for name in FIGURES if name in run.record}
    metrics = run.record.get("metrics", {})
    return found | ({METRIC: metrics[METRIC]} if METRIC in metrics else {})


def sheet(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Lines of cells, headings first; what there is more of, runs or what is said of them, goes down the page."""
    names = dict.fromkeys(name for row in rows for name in row)
    lines = [[name, *(_cell(row.get(name)) for row in rows)] for name in names]
    return lines if len(names) > len(rows) else [list(line) for line in zip(*lines, strict=True)]


def _table(lines: list[list[str]]) -> Table:
    table = Table(*(Column(heading, overflow="fold") for heading in lines[0]))
    for line in lines[1:]:
        table.add_row(*line)
    return table


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
