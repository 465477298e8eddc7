"""Where a file is written when its own folder cannot be written to."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from loralab.writing import WriteError, unused, writing

Report = Callable[[str], None]
"""Called with an error that does not end the run."""


class Fallback:
    """Writes into the folder asked for, else into the run's, else into the system's temporary one; nothing is lost."""

    def __init__(self, run_folder: Path, report: Report) -> None:
        self.run_folder, self.report = run_folder, report

    def write(self, path: Path, write: Callable[[Path], None]) -> Path:
        """Calls `write` with the path, or with others until one works, and reports that; returns where it is.

        Raises a WriteError where none does.
        """
        failed: list[WriteError] = []
        for place in self._places(path):
            try:
                write(place)
            except WriteError as error:
                failed.append(error)
                continue
            if failed:
                self.report(f"{failed[0]}\n    written to {place} instead")
            return place
        raise WriteError(*(problem for error in failed for problem in error.problems))

    def _places(self, path: Path) -> Iterator[Path]:
        yield path
        if path.parent != self.run_folder and not path.is_relative_to(self.run_folder):
            yield unused(self.run_folder / path.name)
        with writing(path, "TMPDIR"):
            yield Path(tempfile.mkdtemp(prefix="loralab-")) / path.name
