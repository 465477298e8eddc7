"""The folder of a sweep, or of other runs one after the other, is locked while they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loralab.errors import user_error
from loralab.writing import holding, is_held_by_another


@contextmanager
def many_runs(folder: Path, setting: str = "hydra.sweep.dir") -> Iterator[None]:
    """Within it the folder of many runs is locked, also between two of them.

    Raises a UserError where another process has locked it, or a run in it, which may survive the process of its sweep.
    """
    with holding(folder) as is_free:
        runs = sorted(folder.iterdir()) if is_free else []
        if busy := next(filter(is_held_by_another, runs), None if is_free else folder):
            remedy = f"wait for its end, which loralab watch {folder} shows, or give another folder"
            raise user_error(setting, f"another process runs what is in {busy}", remedy)
        yield
