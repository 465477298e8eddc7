"""What a process prints: to the terminal and the log of its run; a closed terminal does no harm."""

from __future__ import annotations

import io
import os
import re
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TextIO

from loralab import __version__

CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b.|[\x00-\x08\x0b-\x1f\x7f]")
"""Terminal control sequences: colours, cursor movements."""
RANK = ("RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")
"""Environment variables, one of which is the number of a process among those of its run …"""
RANKS = ("NODE_RANK", "GROUP_RANK", "LOCAL_RANK")
"""… or those of its machine, and of the process on it."""


def is_first() -> bool:
    """Whether this is the only process of a run, or the first of those on its devices."""
    rank = next((os.environ[name] for name in RANK if name in os.environ), None)
    return not any(int(number) for number in ([rank] if rank else [os.environ.get(name, 0) for name in RANKS]))


class Log:
    """A file of the printed lines, as a terminal finally shows them.

    What is printed before a file is opened is kept, and written to it first.
    """

    def __init__(self) -> None:
        self.file: IO[str] | None = None
        self.early: deque[str] = deque(maxlen=1000)

    def line(self, text: str) -> None:
        """Writes a line; of a progress bar that redraws itself, the last state."""
        line = CONTROL.sub("", text.rstrip("\r").rpartition("\r")[2]) + "\n"
        if self.file is None:
            self.early.append(line)
            return
        try:
            self.file.write(line)
            self.file.flush()
        except OSError:  # a full disk: the terminal shows it all the same
            self.file = None

    def open(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a", encoding="utf8", errors="backslashreplace")
        except OSError as error:
            print(f"note: cannot write the log: {error}", file=sys.stderr)
            return
        for line in self.early:
            self.line(line.removesuffix("\n"))

    def close(self) -> None:
        file, self.file = self.file, None
        try:
            if file is not None:
                file.close()
        except OSError:
            pass


class Stream:
    """Standard output or error that is also logged and survives a reader that has ended."""

    def __init__(self, stream: TextIO | None, log: Log) -> None:
        self.stream: Any = stream or io.StringIO()  # None: closed when the process started
        self.log, self.terminal = log, self.stream.isatty()
        self.begun = ""
        """The line that is not finished yet."""
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        self._try(self.stream.write, text)
        *whole, self.begun = (self.begun + text).split("\n")
        for line in whole:
            self.log.line(line)
        if whole:
            self.flush()
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def isatty(self) -> bool:
        return self.terminal  # also after it was closed: progress is drawn in the same way

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def _try(self, do: Any, *words: str) -> None:
        try:
            do(*words)
        except (OSError, ValueError):  # the reader has ended (`| head`), the terminal is closed, the disk is full
            self._lose()

    def _lose(self) -> None:
        """Redirects the stream to the null device, also for code that writes to its file descriptor."""
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
        except (OSError, ValueError):
            self.stream = io.StringIO()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_log = Log()
ASKS = {
    "--help",
    "-h",
    "--hydra-help",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--version",
    "--shell-completion",
    "-sc",
    "--dry-run",
}
"""Flags with which nothing is trained."""


def greet() -> None:
    """The first line of a training, before anything that takes a while."""
    if is_first() and not {word.partition("=")[0] for word in sys.argv[1:]} & ASKS:
        print(f"loralab {__version__}: reading the settings", file=sys.stderr)


def note(text: str) -> None:
    """Writes into the log alone."""
    for line in text.rstrip("\n").split("\n"):
        _log.line(line)


@contextmanager
def kept(path: Path | None = None) -> Iterator[None]:
    """Within it standard output and error are written to the log at the path, and survive their readers."""
    before = sys.stdout, sys.stderr
    outermost = not isinstance(sys.stderr, Stream)
    if outermost:
        _log.early.clear()
        sys.stdout, sys.stderr = (Stream(stream, _log) for stream in before)  # type: ignore[assignment]
    if path:
        _log.open(path)
    try:
        yield
    finally:
        if path:
            _log.close()
        if outermost:
            sys.stdout, sys.stderr = before
