"""The sample pictures of a run in a report: thumbnails, and beside them the pictures in full."""

from __future__ import annotations

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from loralab.writing import atomic_path

THREADS = 8
SIDE = 256
"""Pixels of a thumbnail's longer side."""
DAMAGED = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
"""What Pillow raises for a file that is damaged, or no picture."""
_NAME = re.compile(r"step(\d+)-(\d+)\.png")


@dataclass(frozen=True, slots=True)
class Picture:
    """One sample: `name`.png in full, `name`.webp as a thumbnail."""

    name: str
    step: int
    prompt: str
    """With its negative prompt, seed, size … in the form of web UIs."""
    width: int
    height: int


def pictures(run: Path) -> tuple[list[Picture], list[str]]:
    """The pictures of a run by step and prompt, and the names of those that are damaged."""
    found, damaged = [], []
    for file in sorted(run.glob("samples/step*.png")):
        try:
            if match := _NAME.fullmatch(file.name):
                with Image.open(file) as image:
                    prompt = str(image.info.get("parameters") or f"prompt {int(match[2]) + 1}")
                    found.append(Picture(file.stem, int(match[1]), prompt, *image.size))
        except DAMAGED:
            damaged.append(f"{file.name} is damaged")
    return found, damaged


def put(run: Path, shown: list[Picture], folder: Path) -> list[str]:
    """Brings a folder up to date with a run's pictures; returns the names of those that cannot be read.

    The pictures in full are hard links: they need no space, follow the folder when it is moved, and become copies when
    it is copied. Where the file system has no links, they are copied.
    """
    kept = {f"{picture.name}{suffix}" for picture in shown for suffix in (".png", ".webp")}
    for old in folder.glob("step*") if folder.is_dir() else ():
        if old.name not in kept:
            old.unlink()
    with ThreadPoolExecutor(THREADS) as pool:  # they wait for the disk, and Pillow works beside Python
        sources = [run / "samples" / f"{picture.name}.png" for picture in shown]
        return [*filter(None, pool.map(partial(_put, folder), sources))]


def _put(folder: Path, source: Path) -> str | None:
    """Writes the two files of a picture where they are out of date; returns what is wrong with it."""
    full, small = folder / source.name, folder / f"{source.stem}.webp"
    try:
        time = source.stat().st_mtime_ns
        if small.exists() and full.exists() and small.stat().st_mtime_ns == full.stat().st_mtime_ns == time:
            return None
        with Image.open(source) as image:
            thumbnail = image.convert("RGB")
    except DAMAGED:
        return f"{source.name} is damaged"
    thumbnail.thumbnail((SIDE, SIDE), reducing_gap=2.0)
    with atomic_path(full, "--out") as beside:
        link(source, beside)
    with atomic_path(small, "--out") as beside:
        thumbnail.save(beside, format="WEBP", quality=88)
        os.utime(beside, ns=(time, time))
    return None


def link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has no links."""
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)
