"""A folder of settings files: one run for each, in the order of their names."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loralab import signals
from loralab.command.many_runs import many_runs
from loralab.errors import UserError, user_error
from loralab.files import what_is_at
from loralab.importers import content as contents
from loralab.importers.content import NotSettings, shown
from loralab.importers.expand import value_of
from loralab.schema.settings import written
from loralab.writing import atomic_path, try_to_write

RUN_FOLDER = "settings.run_folder"
SUFFIXES = (".json", ".toml", ".txt", ".safetensors", ".sh", ".bat", ".cmd", ".ps1", ".yaml", ".yml")
RECORD = "runs.json"
"""The result of each file, in the multirun folder."""

Start = Callable[[list[str]], int]
"""Trains once with these command-line arguments and returns the exit code."""


def run_folder(overrides: list[str]) -> Path | None:
    """The folder of settings files that the overrides name."""
    folder = value_of(overrides, RUN_FOLDER)
    return None if folder is None else Path(os.path.expanduser(str(folder)))


def run(folder: Path, overrides: list[str], flags: list[str], start: Start | None = None) -> int:
    """Trains each settings file of the folder that is not finished yet, in run1/, run2/ … of its multirun folder.

    A failed run is reported and the others continue; the exit code is then 1. Nothing is overwritten: a retry gets a
    new folder.
    """
    files = settings_files(folder)
    root = multirun_folder(folder, overrides)
    try_to_write(root, "hydra.sweep.dir")
    with many_runs(root):
        return _run_each(files, root, overrides, flags, start or start_process)


def _run_each(files: list[Path], root: Path, overrides: list[str], flags: list[str], start: Start) -> int:
    record = _read(root)
    common = [o for o in overrides if o.lstrip("+").partition("=")[0] not in (RUN_FOLDER, "hydra.sweep.dir")]
    results: dict[str, str] = {}
    for number, file in enumerate(files, 1):
        key = _key(file, common)
        if (done := record["runs"].get(key)) and done["status"] == "finished":
            results[file.name] = f"finished earlier ({done['folder']})"
            continue
        target = _next_folder(root)
        print(f"[{number}/{len(files)}] {shown(file.name)} in {target}", file=sys.stderr, flush=True)
        target.mkdir(parents=True)
        own = [f"settings.load={written(str(file))}", f"{RUN_FOLDER}=null", f"hydra.run.dir={written(str(target))}"]
        code = start([*flags, *common, *own])
        status = "finished" if code == 0 else "interrupted" if code in signals.EXIT_CODES else "failed"
        record["runs"][key] = {"file": file.name, "folder": target.name, "status": status, "exit_code": code}
        _write(root, record)
        results[file.name] = f"{status} ({target.name})"
        signals.check()
    return _summary(results)


def settings_files(folder: Path) -> list[Path]:
    """The settings files in the folder, in name order. Raises a UserError where there are none."""
    if not os.path.isdir(folder):
        raise user_error(RUN_FOLDER, f"'{folder}' {what_is_at(folder)}", "give a folder of settings files")
    visible = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    found = sorted((path for path in visible if path.suffix.lower() in SUFFIXES), key=lambda path: path.name)
    files = [path.absolute() for path in found if not _is_something_else(path)]
    if not files:
        raise user_error(RUN_FOLDER, f"'{folder}' contains no settings files", f"valid: {', '.join(SUFFIXES)}")
    return files


def _is_something_else(path: Path) -> bool:
    """Whether a file is not a settings file, which is reported. A damaged settings file is one: its run fails."""
    from loralab.importers.conversion import converted
    from loralab.importers.recognition import dialect_of

    try:
        content = contents.read(path)
        if dialect_of(content) == "sd-scripts-dataset":
            found = "is a dataset configuration without training settings: set it as dataset_config in a settings file"
        else:
            converted(content)
            return False
    except NotSettings as error:
        found = error.problems[0].found.partition("' ")[2]
    except UserError:
        return False
    print(f"note: skipped: {shown(path.name)} {found}", file=sys.stderr)
    return True


def multirun_folder(folder: Path, overrides: list[str]) -> Path:
    """The folder of the runs, the same each time: multirun/NAME, or hydra.sweep.dir where it is set."""
    if given := value_of(overrides, "hydra.sweep.dir"):
        return Path(str(given)).absolute()
    source, count = str(folder.resolve()), 1
    root = Path("multirun", folder.resolve().name).absolute()
    while root.exists() and _read(root)["source"] not in ("", source):
        count += 1
        root = root.with_name(f"{folder.resolve().name}-{count}")
    root.mkdir(parents=True, exist_ok=True)
    _write(root, {**_read(root), "source": source})
    return root


def start_process(words: list[str]) -> int:
    """Trains in a separate process, so that no run can affect the next; signals are forwarded to it."""
    command = [sys.executable, "-c", "from loralab.launch import main; main()", *words]
    process = subprocess.Popen(command)
    with signals.relayed(process.send_signal):
        return process.wait()


def _next_folder(root: Path) -> Path:
    number = 1
    while (root / f"run{number}").exists():
        number += 1
    return root / f"run{number}"


def _key(file: Path, overrides: list[str]) -> str:
    """Identifies a run: the file's name and content, and the overrides."""
    try:
        content = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    except OSError:
        content = ""
    return f"{file.name}:{content}:{hashlib.blake2b(repr(overrides).encode(), digest_size=4).hexdigest()}"


def _read(root: Path) -> dict[str, Any]:
    """The record of a multirun folder, an empty one where there is none or it is damaged."""
    try:
        record = json.loads((root / RECORD).read_text("utf8"))
        return {"source": str(record["source"]), "runs": dict(record["runs"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"source": "", "runs": {}}


def _write(root: Path, record: dict[str, Any]) -> None:
    with atomic_path(root / RECORD, RUN_FOLDER) as path:
        path.write_text(json.dumps(record, indent=2) + os.linesep, "utf8")


def _summary(results: dict[str, str]) -> int:
    print(file=sys.stderr)
    for name, result in results.items():
        print(f"{shown(name)}: {result}", file=sys.stderr)
    return 0 if all(result.startswith("finished") for result in results.values()) else 1
