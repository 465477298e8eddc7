"""Digests and time stamps of files, the cache folder, and texts that are safe to write and to show."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any
from unicodedata import category


def digest_file(path: str | os.PathLike) -> str:
    """The blake2b-128 hex digest of a file's bytes."""
    with open(path, "rb") as file:
        digest = hashlib.blake2b(digest_size=16)
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def cache_folder(folder: str | None = None) -> Path:
    """The folder given, else $LORALAB_CACHE, else ~/.cache/loralab."""
    return Path(folder or os.environ.get("LORALAB_CACHE") or "~/.cache/loralab").expanduser().absolute()


def what_is_at(path: str | os.PathLike) -> str:
    """What is found at a path, as the rest of a sentence."""
    if os.path.isdir(path):
        return "is a folder"
    if os.path.isfile(path):
        return "is a file"
    return "is a pipe or a device" if os.path.exists(path) else "was not found"


def as_json(value: Any) -> str:
    """Indented JSON; bytes of file names that are not UTF-8 are escaped."""
    return json.dumps(value, indent=2, ensure_ascii=False).encode("utf8", "backslashreplace").decode()


def printable(name: str) -> str:
    """A text from outside for display: characters that could control a terminal are replaced."""
    return "".join(c if c.isprintable() or category(c) == "Zs" else "\ufffd" for c in name)


def stamp(status: os.stat_result) -> int:
    """A number that changes with a file's mtime or ctime, so that an edit that restores the mtime is detected."""
    return (status.st_mtime_ns * 31 + status.st_ctime_ns) & (1 << 63) - 1
