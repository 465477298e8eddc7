"""`loralab compare RUN…`: runs side by side, as text, JSON, or a page with their sample images."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from yaml import YAMLError

from loralab.errors import Problem, UserError
from loralab.files import as_json, printable
from loralab.places import check_place
from loralab.schema.renamed import current_keys
from loralab.schema.tree import leaves
from loralab.writing import atomic_path

FIGURES = ("steps", "seconds", "images_per_second", "loss")
METRIC = "validation/loss"


class Damaged(Exception):
    """Why a run cannot be compared."""


@dataclass(frozen=True, slots=True)
class Run:
    """What the folder of a finished or unfinished run contains."""

    folder: Path
    figures: dict[str, Any]
    """Its status, and figures by name; None for those that do not exist (yet)."""
    settings: dict[str, Any]
    """By dotted key."""

    @property
    def grid(self) -> Path:
        """The grid of its sample images, if it drew any."""
        return self.folder / "samples" / "grid.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or folders that contain some"
    )
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with the runs' sample images")


def main(args: argparse.Namespace) -> None:
    if args.html:
        check_place(args.html, "--html")
    runs, damaged = gather(args.folders)
    if not runs:
        raise UserError(*(Problem(folder, why, "give the folder of a run") for folder, why in damaged.items()))
    differing = differences(runs)
    rows = [{"run": str(run.folder), **run.figures, **{k: run.settings.get(k) for k in differing}} for run in runs]
    rows += [{"run": folder, "status": f"not compared: {why}"} for folder, why in damaged.items()]
    if args.html:
        _write_page(args.html, rows, runs, differing)
    print(as_json(rows)) if args.json else Console().print(_table(sheet(_shortly(rows))))


def gather(folders: list[Path]) -> tuple[list[Run], dict[str, str]]:
    """The runs in or below some folders; and those that cannot be compared, with the reason."""
    runs, damaged = [], {}
    for given in folders:
        records = sorted(given.rglob("run.json"))
        if not records:
            damaged[str(given)] = "contains no run.json" if given.is_dir() else "folder not found"
        for record in records:
            try:
                runs.append(read(record.parent))
            except Damaged as why:
                damaged[str(record.parent)] = str(why)
    return runs, damaged


def read(folder: Path) -> Run:
    """The record and the resolved settings of a run. Raises Damaged."""
    file = "run.json"
    try:
        figures = _figures(json.loads((folder / file).read_text(encoding="utf8")))
        file = "config/config.yaml"
        settings = _settings(folder / file) if (folder / file).exists() else {}
    except UnicodeDecodeError:
        raise Damaged(f"{file} is not UTF-8 text") from None
    except (ValueError, YAMLError, OmegaConfBaseException):
        raise Damaged(f"{file} is damaged or incomplete") from None
    except RecursionError:
        raise Damaged(f"{file} is nested too deeply") from None
    except OSError as error:
        raise Damaged(f"{file} cannot be read: {error.strerror or 'it contains no settings'}") from None
    return Run(folder, figures, settings)


def _figures(record: Any) -> dict[str, Any]:
    """The status and figures in a run's record. Raises Damaged."""
    if not isinstance(record, dict) or not isinstance(record.get("status"), str):
        raise Damaged("run.json is not the record of a run")
    found = {name: record[name] for name in FIGURES if name in record}
    metrics = record.get("metrics") or {}
    if isinstance(metrics, dict) and METRIC in metrics:
        found[METRIC] = metrics[METRIC]
    for name, value in found.items():
        if not isinstance(value, int | float | None):
            raise Damaged(f"run.json: {name} is {value!r:.40}, not a number")
    return {"status": record["status"], **found}


def _settings(file: Path) -> dict[str, Any]:
    """The settings of a run by dotted key; an interpolation that cannot be resolved here stays as written."""
    config = OmegaConf.load(file)
    if not isinstance(config, DictConfig) or "seed" not in config:
        raise Damaged(f"{file.name} contains no settings")
    try:
        tree = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException:  # an environment variable that is not set any more, say
        tree = OmegaConf.to_container(config)
    return current_keys({key: _resolved(config, key, value) for key, value in leaves(tree)})  # type: ignore[arg-type]


def _resolved(config: DictConfig, key: str, value: Any) -> Any:
    """A leaf as plain JSON, resolved on its own if possible."""
    if "${" in str(value):
        with suppress(OmegaConfBaseException):
            value = OmegaConf.select(config, key, default=value)
    return json.loads(json.dumps(value, default=str))


def _write_page(path: Path, rows: list[dict[str, Any]], runs: list[Run], differing: list[str]) -> None:
    from loralab.report.page import render

    rows = _shortly(rows)
    grids = {
        " · ".join([row["run"], *(f"{key}={_cell(run.settings.get(key))}" for key in differing)]): run.grid
        for row, run in zip(rows, runs, strict=False)  # the damaged ones come last
        if run.grid.is_file()
    }
    pictures = [(caption, *_picture(grid)) for caption, grid in grids.items()]
    text = render("runs.html", title="loralab: runs side by side", lines=sheet(rows), pictures=pictures)
    with atomic_path(path, "--html") as beside:
        beside.write_text(text, encoding="utf8", errors="backslashreplace")


def _picture(png: Path) -> tuple[str, str]:
    """A picture as a link that contains it, and what is wrong with its file."""
    from loralab.report.page import embedded

    try:
        return embedded(png.read_bytes(), "png"), ""
    except OSError as error:
        return "", f": {png.name} cannot be read: {error.strerror}"


def _shortly(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the common beginning of the runs' folders removed, but at least one name left to each."""
    parts = [Path(row["run"]).parts for row in rows]
    longest = max(0, min(map(len, parts)) - 1)
    shared = next((i for i in range(longest) if len({part[i] for part in parts}) > 1), longest)
    return [{**row, "run": str(Path(*part[shared:]))} for row, part in zip(rows, parts, strict=True)]


def differences(runs: list[Run]) -> list[str]:
    """Settings that differ between the runs, except `suggested.*`, which only give others their defaults."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.startswith("suggested."))
    return [key for key in keys if any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)]


def sheet(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Lines of cells, headings first; whichever is more, runs or their columns, becomes the lines."""
    names = dict.fromkeys(name for row in rows for name in row)
    lines = [[name, *(_cell(row.get(name)) for row in rows)] for name in names]
    return lines if len(names) > len(rows) else [list(line) for line in zip(*lines, strict=True)]


def _table(lines: list[list[str]]) -> Table:
    table = Table(*(Column(Text(heading), overflow="fold") for heading in lines[0]))
    for line in lines[1:]:
        table.add_row(*map(Text, line))  # as text: brackets would be taken for rich's markup
    return table


def _cell(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
    return "\n".join(map(printable, text.split("\n")))
