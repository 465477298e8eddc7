"""The sheets of `loralab grid` that lie in or above the folders of runs, in a report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

from PIL import Image

from loralab.report.pictures import DAMAGED, link
from loralab.writing import atomic_path

MADE_HERE = "loralab grid"
"""The `Software` text of a sheet."""
FOLDER = "grids"
"""In the folder of a report's pictures."""
SIDE = 1600
"""Pixels of the longer side, as the page shows it; the whole sheet is a click away."""


def is_grid(path: Path) -> bool:
    """Whether a file is a sheet that `loralab grid` has written."""
    try:
        with Image.open(path) as image:
            return str(image.info.get("Software", "")).startswith(MADE_HERE)
    except DAMAGED:
        return False


def put(given: Iterable[Path], runs: Iterable[Path], media: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Brings the sheets into a report's folder of pictures; what the page is told of each, and which are damaged.

    given: folders in or below which the runs are.
    """
    shown, damaged = [], []
    for file in sorted({file.resolve() for file in _sheets([*given], [*runs])}):
        name = blake2b(str(file).encode("utf8", "surrogateescape"), digest_size=6).hexdigest()
        try:
            facts = _put(file, media / FOLDER / name)
        except DAMAGED:
            damaged.append(f"{file} is damaged")
        else:
            shown.append({"file": f"{media.name}/{FOLDER}/{name}", "place": str(file), **facts})
    kept = {Path(each["file"]).stem for each in shown}
    for old in (media / FOLDER).glob("*"):
        if old.stem not in kept:
            old.unlink()
    return shown, damaged


def _put(file: Path, target: Path) -> dict[str, Any]:
    """Writes `target`.png, the sheet in full, and `target`.webp, as the page shows it; its title and size."""
    with Image.open(file) as image:
        title, preview = str(image.info.get("Title", file.name)), image.convert("RGB")
    preview.thumbnail((SIDE, SIDE), reducing_gap=2.0)
    with atomic_path(target.with_suffix(".png"), "--out") as beside:
        link(file, beside)
    with atomic_path(target.with_suffix(".webp"), "--out") as beside:
        preview.save(beside, format="WEBP", quality=90)
    return {"title": title, "width": preview.width, "height": preview.height}


def _sheets(given: list[Path], runs: list[Path]) -> Iterator[Path]:
    """Those in the folders given, in those of the runs, and in the folders between them."""
    places = {place for run in runs for place in (run, *run.parents) for top in given if place.is_relative_to(top)}
    for place in places.union(given, runs):
        yield from (file for file in place.glob("*.png") if is_grid(file))
