"""What a run writes into its folder, uploaded while it trains: `output.folder` by URL.

Files are written on this disk first, so that nothing is lost to a network. A thread compares the folder with what was
uploaded and sends what is new; errors are told and tried again, and never end a run.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from types import TracebackType

from loralab import remote
from loralab.console import is_first
from loralab.errors import UserError
from loralab.urls import is_url, plain

SETTING = "output.folder"
EVERY = 10.0
"""Seconds between two looks at the folder."""


class Uploads:
    """Within it a run's folder is uploaded to URL/NAME-OF-THE-FOLDER; at its end all of it is there, or an error says
    what is not. Nothing is done where `url` is no URL, nor by other processes than the first."""

    def __init__(self, folder: Path, url: str | None) -> None:
        """Raises a UserError where the URL cannot be reached."""
        self.folder = folder
        self.url = f"{plain(url)}/{folder.name}" if url and is_url(plain(url)) and is_first() else None
        self._sent: dict[str, tuple[int, int]] = {}
        self._told = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)
        if self.url:
            remote.files(self.url, SETTING)

    def __enter__(self) -> Uploads:
        if self.url:
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self.url:
            return
        self._end.set()
        self._thread.join()
        if missing := self._sync():
            found = f"{len(missing)} files could not be uploaded, such as {missing[0]}"
            print(f"error     {SETTING}: {found}; all are in {self.folder}", file=sys.stderr, flush=True)
        else:
            print(f"uploaded  {self.url}", flush=True)

    def _work(self) -> None:
        while not self._end.wait(EVERY):
            self._sync()

    def _sync(self) -> list[str]:
        """Sends what is new and removes what is gone; returns what could not be sent. The first error ends it."""
        there = dict(_files(self.folder))
        todo = [name for name, state in there.items() if self._sent.get(name) != state]
        try:
            for name in list(todo):
                remote.upload(self.folder / name, f"{self.url}/{name}", SETTING)
                self._sent[name] = there[name]
                todo.remove(name)
            for name in [name for name in self._sent if name not in there]:  # states that are no longer kept
                remote.remove(f"{self.url}/{name}", SETTING)
                del self._sent[name]
        except FileNotFoundError:
            pass  # a file was replaced meanwhile: next time
        except (UserError, OSError) as error:
            if not self._told:
                print(f"error     {error}; the run continues", file=sys.stderr, flush=True)
            self._told = True
        return todo


def _files(folder: Path) -> list[tuple[str, tuple[int, int]]]:
    """(path below the folder, size and time) of the files that are complete."""
    found = []
    for place, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for name in names:
            file = Path(place, name)
            try:
                status = file.stat()
            except OSError:
                continue
            if not name.startswith("."):
                found.append((file.relative_to(folder).as_posix(), (status.st_size, status.st_mtime_ns)))
    return found
