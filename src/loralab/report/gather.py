"""The runs in or below some folders, as their records and settings tell; damaged ones are named and not fatal."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from loralab.schema.renamed import current_keys
from loralab.schema.tree import leaves

FIGURES = ("steps", "seconds", "images_per_second", "peak_memory_gb", "loss")
METRIC = "validation/loss"


class Damaged(Exception):
    """Why a run cannot be compared."""


@dataclass(frozen=True, slots=True)
class Run:
    """What the folder of a finished or unfinished run contains."""

    folder: Path
    record: dict[str, Any]
    """As it is in run.json."""
    figures: dict[str, Any]
    """Its status, and figures by name; None for those that do not exist (yet)."""
    settings: dict[str, Any]
    """By dotted key."""


def gather(folders: list[Path]) -> tuple[list[Run], dict[str, str]]:
    """The runs in or below some folders; and those that cannot be compared, with the reason."""
    runs, damaged = [], {}
    for given in folders:
        records = sorted(given.rglob("run.json"), key=_in_order)
        if not records:
            damaged[str(given)] = "contains no run.json" if given.is_dir() else "folder not found"
        for record in records:
            try:
                runs.append(read(record.parent))
            except Damaged as why:
                damaged[str(record.parent)] = str(why)
    return runs, damaged


def _in_order(path: Path) -> list[tuple[int, str]]:
    """The runs of a sweep by their numbers: 2 before 10."""
    return [(len(part) if part.isdigit() else 0, part) for part in path.parts]


def read(folder: Path) -> Run:
    """The record and the resolved settings of a run. Raises Damaged."""
    file = "run.json"
    try:
        record = json.loads((folder / file).read_text(encoding="utf8"))
        figures = _figures(record)
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
    return Run(folder, record, figures, settings)


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


def short_names(folders: list[str]) -> list[str]:
    """The paths with their common beginning removed, but at least one name left to each."""
    parts = [Path(folder).parts for folder in folders]
    longest = max(0, min(map(len, parts), default=0) - 1)
    shared = next((i for i in range(longest) if len({part[i] for part in parts}) > 1), longest)
    return [str(Path(*part[shared:])) for part in parts]


def differences(runs: list[Run]) -> list[str]:
    """Settings that differ between the runs, except `suggested.*`, which only give others their defaults."""
    keys = dict.fromkeys(key for run in runs for key in run.settings if not key.startswith("suggested."))
    return [key for key in keys if any(run.settings.get(key) != runs[0].settings.get(key) for run in runs)]


def cell(value: Any) -> str:
    """A value as a table shows it."""
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)
