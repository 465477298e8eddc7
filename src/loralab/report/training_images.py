"""The training images of a run in a report: learnt worst and best, with thumbnails where their files still exist."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL import Image

from loralab.data import images
from loralab.data.sources import mounts
from loralab.errors import UserError
from loralab.report.analysis import LEARNT_BY_LOG, Analysis, ImageRow, analyse, name_of
from loralab.writing import atomic_path

FOLDER = "training_images"
SIDE = 192
"""Pixels of a thumbnail's longer side."""
FIRST, HARDEST, EASIEST, TAGS = 24, 8, 4, 8
"""At most so many images to be looked at first, others on each side, and tags on each side."""


def training_images(run: Path, media: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """What the page shows of a run's images, None where it has no log of losses; and notes.

    Thumbnails go into FOLDER below `media`, named by content, so that the runs of a sweep share them.
    """
    try:
        found = analyse(run)
    except UserError:  # an old run, or one that has just begun
        return None, []
    groups = {title: [_card(row, media) for row in rows] for title, rows in _chosen(found).items() if rows}
    tags = found.tags if len(found.tags) <= 2 * TAGS else [*found.tags[:TAGS], *found.tags[-TAGS:]]
    facts = {"images": len(found.rows), "samples": found.samples, "steps": found.steps, "change": found.change}
    facts |= {"measured": found.measured, "baseline": found.baseline}
    if not found.measured and any(row.learnt for row in found.rows):
        facts["baseline"] += f" {LEARNT_BY_LOG}"
    return {**facts, "groups": groups, "tags": [asdict(tag) for tag in tags]}, found.notes


def remove_others(media: Path, shown: Iterable[dict[str, Any] | None]) -> None:
    """The thumbnails that are not on the page any more."""
    cards = [card for each in shown if each for group in each["groups"].values() for card in group]
    kept = {card["thumbnail"] for card in cards}
    for file in (media / FOLDER).glob("*.webp"):
        if file.stem not in kept:
            file.unlink(missing_ok=True)


def _chosen(found: Analysis) -> dict[str, list[ImageRow]]:
    worst, best = ("Learnt least", "Learnt most") if found.measured else ("Hardest", "Easiest")
    first = [row for row in found.rows if row.reasons]
    others = found.rows[len(first) :]
    hardest = others[: max(HARDEST, len(others) - EASIEST) if len(others) <= HARDEST + EASIEST else HARDEST]
    return {
        "Look at these first": first[:FIRST],
        f"{worst} of the others" if first else worst: hardest,
        best: others[len(hardest) :][: -EASIEST - 1 : -1],
    }


def _card(row: ImageRow, media: Path) -> dict[str, Any]:
    shown = asdict(row)
    del shown["path"], shown["digest"], shown["distance"]
    return {**shown, "name": name_of(row.path), "path": row.path, "thumbnail": _thumbnail(row, media / FOLDER)}


def _thumbnail(row: ImageRow, folder: Path) -> str | None:
    """The name of the thumbnail, without its suffix; None where the file is gone, is another, or cannot be read."""
    name = row.digest or blake2b(row.path.encode("utf8", "surrogateescape"), digest_size=16).hexdigest()
    file = folder / f"{name}.webp"
    if row.digest and file.exists():
        return name
    with suppress(OSError, ValueError, zlib.error, images.ImageError):
        if row.digest and mounts.digest(row.path) != row.digest:
            return None
        pixels = images.thumbnail(row.path, SIDE)
        with atomic_path(file, "--out") as beside:
            Image.fromarray(pixels).save(beside, format="WEBP", quality=85)
        return name
    return None
