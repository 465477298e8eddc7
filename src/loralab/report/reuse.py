"""An earlier run of the same signature: found, and with `reuse=true` taken over instead of training the same again."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from loralab.console import is_first
from loralab.errors import UserError
from loralab.files import digest_file
from loralab.report.gather import run_folders
from loralab.report.run import Run, glance, read
from loralab.schema.tree import leaves
from loralab.training.output import Output
from loralab.training.signature import LOADING, PLACES, THIS_RUN
from loralab.training.state import versions
from loralab.writing import atomic_folder, atomic_path

ASIDE = (*PLACES, *LOADING, *THIS_RUN, "settings", "suggested", "output.folder", "callbacks.progress")
"""Settings that change neither a result nor what is measured and drawn on the way to it."""
OWN = ("config", "states", "run.json", "train.log", ".lock")
"""In a run's folder, what is of that run alone."""
FACTS = (
    *("steps", "epochs", "training_seconds", "images", "images_per_second", "peak_memory_gb", "loss", "metrics"),
    *("data", "adapter_notes", "eight_bit", "device", "digests", "stopped"),
)
"""What a record says of a result."""


def earlier(roots: Iterable[Path], signature: str, run: Path) -> Run | None:
    """The newest finished run under the roots with this digest of its signature; run: the folder of the one that
    asks."""
    ended: dict[Path, str] = {}
    for folder in run_folders(roots):
        facts = glance(folder).facts
        if (facts.get("signature"), facts.get("status")) == (signature, "finished"):
            ended[folder] = str(facts.get("ended"))
    for folder in sorted(ended, key=lambda folder: ended[folder], reverse=True):
        with suppress(UserError):  # a damaged one
            if folder.resolve() != run.resolve():
                return read(folder)
    return None


def told(other: Run, why: str | None) -> str:
    """A line on an earlier run of the same signature. why: what keeps its result from being taken over."""
    result = f"{other.facts.get('steps')} steps" + (f", loss {loss:.4f}" if (loss := other.facts.get("loss")) else "")
    rest = f"; not reused: {why}" if why else "; reuse=true takes its result"
    return f"note      {other.folder} finished with the same signature ({result}){rest}"


def hindrance(other: Run, settings: Mapping[str, Any], steps: int) -> str | None:
    """Why the result of a run is not that of a run with these settings; steps: that it would take."""
    mine = {key: value for key, value in leaves(settings) if not _is_aside(key)}
    its = {key: value for key, value in other.settings.items() if not _is_aside(key)}
    if differing := [key for key in {**mine, **its} if mine.get(key) != its.get(key)]:
        return f"differs in {', '.join(differing[:5])}" + (" …" if len(differing) > 5 else "")
    if other.facts.get("resumed_with") or (other.facts.get("steps") != steps and not other.facts.get("stopped")):
        return "was resumed with other settings, or ended early"
    if gone := [name for name, digest in versions().items() if (other.facts.get("versions") or {}).get(name) != digest]:
        return f"was made with another version of {', '.join(gone)}"
    if not (digests := _digests(other)):
        return "its record names no adapter file"
    for path, digest in digests.items():
        if not path.is_file() or digest_file(path) != digest:
            return f"{path} is gone or was changed"
    return None


def take_over(other: Run, folder: Path, output: Output) -> dict[str, Any]:
    """Copies the adapter files of a run, and what else is in its folder; returns the facts of its result."""
    files = {path: output.folder / path.name for path in _digests(other)}
    for path, copy in files.items() if is_first() else ():
        with atomic_path(copy, "output.folder") as beside:
            shutil.copy(path, beside)
    for entry in other.folder.iterdir() if is_first() else ():
        if entry.is_dir() and entry.name not in OWN:
            with atomic_folder(folder / entry.name, "hydra.run.dir") as beside:
                shutil.copytree(entry, beside)
    print(f"reused    {other.folder}", file=sys.stdout, flush=True)
    facts = {name: other.facts.get(name) for name in FACTS}
    return {**facts, "files": [*map(str, files.values())], "reused": str(other.folder)}


def _digests(run: Run) -> dict[Path, str]:
    """Each adapter file of a run, as recorded, or in the folder of the run where that was moved."""
    known: dict[str, str] = run.facts["digests"] if isinstance(run.facts.get("digests"), dict) else {}
    written = {Path(path).name: Path(path) for path in run.facts.get("files") or []}
    places = {name: run.folder / name for name in known}
    return {place if place.is_file() else written.get(name, place): known[name] for name, place in places.items()}


def _is_aside(key: str) -> bool:
    return any(f"{key}.".startswith(f"{aside}.") for aside in ASIDE)
