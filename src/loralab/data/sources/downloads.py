"""What was read from other machines, kept on this disk up to a limit; what was used least recently goes first."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from loralab.writing import WriteError, atomic_path

_AFTER = 0.05
"""A process looks at the whole folder again when it has added this share of the limit."""
_DOWN_TO = 0.8
"""The share of the limit that is left then, so that several processes together stay under it."""


class Downloads:
    """Ranges of remote files, each a file of its own. Several processes may use one folder."""

    def __init__(self, folder: Path, limit: float) -> None:
        """limit: bytes; 0: nothing is kept."""
        self.folder, self.limit = folder, limit
        self._added: float = limit  # the first addition looks at what earlier runs have left
        self._works = limit > 0

    def get(self, key: str, size: int, fetch: Callable[[], bytes]) -> bytes:
        """The bytes of a key, `size` in number, from the disk or else fetched. A full disk costs only the keeping."""
        if not self._works or size > self.limit * _AFTER:
            return fetch()
        name = blake2b(key.encode("utf8", "surrogateescape"), digest_size=16).hexdigest()
        place = self.folder / name[:2] / name
        with suppress(OSError):
            found = place.read_bytes()
            if len(found) == size:
                os.utime(place)
                return found
        found = fetch()
        self._keep(place, found)
        return found

    def _keep(self, place: Path, found: bytes) -> None:
        try:
            with atomic_path(place, "data.cache_folder", flush=False) as beside:
                beside.write_bytes(found)
        except WriteError as error:
            self._works = not error.is_full
            return
        self._added += len(found)
        if self._added > self.limit * _AFTER:
            self._added = 0
            self._evict()

    def _evict(self) -> None:
        kept = []
        for place in self.folder.glob("??/*"):
            with suppress(OSError):  # another process evicts, too
                status = place.stat()
                kept.append((status.st_mtime_ns, status.st_size, place))
        total = sum(size for _, size, _ in kept)
        if total <= self.limit * _DOWN_TO:
            return
        for _, size, place in sorted(kept, key=lambda entry: entry[0]):
            if total <= self.limit * _DOWN_TO:
                break
            with suppress(OSError):
                place.unlink()
            total -= size
