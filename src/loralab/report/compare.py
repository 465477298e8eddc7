"""`loralab compare RUN…`: runs side by side, as text, JSON, or a page with their pictures."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from loralab.config.compose import register_resolvers
from loralab.errors import user_error
from loralab.tools.show_config import leaves

FIGURES = ("status", "steps", "seconds", "images_per_second", "loss", "validation_loss")


@dataclass(frozen=True, slots=True)
class Run:
    """A finished or unfinished run's folder, read back."""

    folder: Path
    record: dict[str, Any]
    settings: dict[str, Any]
    """By dotted key."""

    @property
    def pictures(self) -> list[Path]:
        return sorted(self.folder.glob("samples/*grid*.png"))


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

        args.html.write_text(page(runs, rows), encoding="utf8")
    print(json.dumps(rows, indent=2, ensure_ascii=False)) if args.json else Console().print(_table(rows))


def read(folder: Path) -> Run:
    """The record and the resolved settings of a run."""
    register_resolvers()
    config = folder / "config" / "config.yaml"
    tree = OmegaConf.to_container(OmegaConf.load(config), resolve=True) if config.is_file() else {}
    record = json.loads((folder / "run.json").read_text(encoding="utf8"))
    return Run(folder, record, dict(leaves(tree)))  # type: ignore[arg-type]


def differences(runs: list[Run]) -> list[str]:
    """Settings that are not the same in all of the runs."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [key for key in keys if any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)]


def figures(run: Run) -> dict[str, Any]:
    return {name: run.record[name] for name in FIGURES if name in run.record}


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in columns))
    return table


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
