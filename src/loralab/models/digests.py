"""Digests of weights that an earlier run has computed: gigabytes of files that are as they were are not read for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from loralab import __version__
from loralab.files import cache_folder
from loralab.models.fingerprint import digest
from loralab.writing import WriteError, atomic_path

SETTLED = 2.0
"""Seconds after which a file cannot change any more without another time stamp, on any file system."""
LIBRARIES = ("torch", "diffusers", "transformers", "safetensors")
"""What decides how tensors are called and what is in them, beside the files."""
LENGTH = 32
"""Of a digest, hexadecimal digits."""


def origin(files: Iterable[Path], *facts: object) -> str | None:
    """What the tensors of a part are made from: files as they are now, and facts. None where one is too new to tell."""
    stamps = []
    for file in files:
        found = file.stat()
        if max(found.st_mtime, found.st_ctime) > time.time() - SETTLED:
            return None
        # no time alone: an edit may restore the mtime, and a copy may bring the times of another file along
        stamps.append((str(file.resolve()), found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    return digest((stamps, facts, __version__, [version(name) for name in LIBRARIES]))


def remembered(origin: str | None, compute: Callable[[], str]) -> str:
    """The digest of the tensors of this origin, if it is in the cache folder; else a computed one, which is kept there
    if possible."""
    if origin is None:
        return compute()
    place = cache_folder() / "digests" / origin
    with suppress(OSError, UnicodeDecodeError):
        if len(known := place.read_text()) == LENGTH:
            return known
    found = compute()
    with suppress(WriteError, OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(place, "data.cache_folder", flush=False) as beside:
            beside.write_text(found)
    return found
