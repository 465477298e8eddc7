"""The folder of a run: checked and reserved before Hydra writes into it, so that no two runs share one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from loralab.checks.places import logged, written_problems
from loralab.console import is_first
from loralab.errors import Problem, UserError, user_error
from loralab.places import output_folder
from loralab.schema.compose import Composed
from loralab.schema.tree import Tree, get
from loralab.writing import hold, make_new, try_to_write, unused, writing

RECORD = "run.json"


class RunFolder(NamedTuple):
    """Where Hydra will write a run, or a sweep."""

    setting: str
    """hydra.run.dir or hydra.sweep.dir"""
    path: Path
    """The value of that setting."""
    run: Path
    """The folder of the run; of a sweep, that of its first run."""
    config: Path | None
    """Where its configuration is written; None: it is not."""
    is_new: bool
    """Whether its name can be changed, so that it is a new folder."""


def planned(composed: Composed, is_sweep: bool) -> RunFolder | None:
    """The folder of a configuration. None where it is not known yet, or another process makes it."""
    if not is_first():
        return None
    hydra: Any = composed.cfg.hydra
    group = hydra.sweep if is_sweep else hydra.run
    try:
        with read_write(hydra), open_dict(hydra):
            hydra.job.num, hydra.job.id = 0, "0"
        path = Path(os.path.abspath(str(group.dir)))
        run = path / str(hydra.sweep.subdir) if is_sweep else path
        config = None if hydra.output_subdir is None else run / str(hydra.output_subdir)
    except OmegaConfBaseException:
        return None
    raw: Any = OmegaConf.to_container(group, resolve=False)
    setting = "hydra.sweep.dir" if is_sweep else "hydra.run.dir"
    return RunFolder(setting, path, run, config, str(raw["dir"]).startswith("${fresh:"))


def folder_problems(tree: Tree, folder: RunFolder) -> Iterator[Problem]:
    """Problems of the folder, and of the paths in it that are written to."""
    first = list(written_problems(tree, [(folder.setting, str(folder.path))]))
    if first:
        yield from first
        return
    inner = {"hydra.sweep.subdir": folder.run, "hydra.output_subdir": folder.config}
    yield from written_problems(tree, [(key, str(path)) for key, path in inner.items() if path is not None])
    yield from written_problems(tree, logged(tree, folder.run))
    if (folder.run / RECORD).exists() and get(tree, "resume") is None:
        yield _used(folder.setting, folder.run)


def claim(folder: RunFolder, is_resumed: bool) -> Path:
    """Makes the folder and returns it; the next free one where a concurrent run has taken it.

    Raises a UserError where another run uses it, and a WriteError where it cannot be written to.
    """
    path = make_new(folder.path, folder.setting) if folder.is_new else folder.path
    try_to_write(path, folder.setting)
    if folder.setting == "hydra.run.dir":
        take(path, is_resumed, None if folder.is_new else folder.config)
    return path


def take(run: Path, is_resumed: bool, config: Path | None = None) -> None:
    """Locks a run's folder; files that a resumed run would overwrite are renamed.

    Raises a UserError where another run uses or has used it.
    """
    if not is_first():
        return
    with writing(run, "hydra.run.dir"):
        run.mkdir(parents=True, exist_ok=True)
        if not hold(run):
            raise user_error("hydra.run.dir", f"another run is writing into {run}", "give each run its own folder")
        if not (run / RECORD).exists():
            return
        if not is_resumed:
            raise UserError(_used("hydra.run.dir", run))
        for earlier in (run / RECORD, config, run / "samples" / "grid.png", *run.rglob("metrics.csv")):
            if earlier is not None and earlier.exists():
                earlier.rename(unused(earlier))


def refuse_to_overwrite(output: Tree, run: Path) -> None:
    """Raises a UserError where the final adapter file already exists, a WriteError where it could not be written."""
    folder = output_folder(get(output, "folder"), run)
    last = folder / f"{get(output, 'name')}.{get(output, 'format')}"
    if last.exists():
        remedy = "choose another output.name or output.folder, or move the file away"
        raise user_error("output.name", f"{last} already exists", remedy)
    try_to_write(folder, "output.folder" if folder != run else "hydra.run.dir")


def _used(setting: str, run: Path) -> Problem:
    remedy = "give another folder, or none for a new one; add resume=auto to resume the run in its folder"
    return Problem(setting, f"{run} contains the files of another run", remedy)
