"""Pictures as files, and their thumbnails on a labelled sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from loralab.callbacks.lettering import Lettering
from loralab.writing import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

MARGIN = 8
CELLS = (96, 256)
"""Minimum and maximum of a thumbnail's longer side, in pixels."""
SHEET = 4_000_000
"""Total pixels of a sheet's thumbnails; the more there are, the smaller each is."""
ROWS, COLUMNS = 24, 16
"""A sheet shows at most so many: the first and the last row and some between them, and the first columns."""
LINES = 6
"""Most lines of a column's name."""


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] as a picture."""
    scaled = ((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(scaled.permute(1, 2, 0).contiguous().numpy())


def save(image: Image.Image, path: Path, parameters: str, setting: str = "hydra.run.dir", **texts: str) -> Path:
    """Writes a PNG with its settings in the `parameters` text, where web UIs look for them, and more texts by name."""
    info = PngInfo()
    for name, text in {"parameters": parameters, **texts}.items():
        info.add_itxt(name, text)
    with atomic_path(path, setting) as beside:
        image.save(beside, format="PNG", pnginfo=info)
    return path


def thumbnail(image: Image.Image, side: int = CELLS[1]) -> Image.Image:
    """The picture with a longer side of at most `side` pixels; a small one is enlarged by a whole number."""
    longer = max(image.size)
    if longer > side:
        scale = side / longer
        width, height = (max(1, round(length * scale)) for length in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    factor = max(1, min(side, CELLS[1]) // 2 // longer)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def grid(
    rows: Mapping[str, Sequence[Image.Image]],
    columns: Sequence[str],
    title: str = "",
    largest: int = CELLS[1],
    pixels: int = SHEET,
) -> Image.Image:
    """A sheet with a row for each name and a column for each prompt, both written beside: thumbnails, as many and as
    large as a sheet of bounded size takes.

    largest: the longer side of a thumbnail, at most; pixels: of all thumbnails together.
    """
    shown = {name: list(rows[name])[:COLUMNS] for name in _spread(list(rows))}
    columns = columns[:COLUMNS]
    side = min(largest, max(CELLS[0], math.isqrt(pixels // (len(shown) * len(columns)))))
    cells = {name: [thumbnail(image, side) for image in row] for name, row in shown.items()}
    width, height = (max(image.size[axis] for row in cells.values() for image in row) for axis in (0, 1))
    letters = Lettering.for_texts([title, *shown, *columns], width)
    names = [letters.wrapped(name, max(width, 160), max(1, height // letters.line)) for name in cells]
    left = MARGIN + max(map(letters.width, names)) + MARGIN
    heads = [letters.wrapped(column, width, LINES) for column in columns]
    right = left + len(columns) * (width + MARGIN)
    words = letters.wrapped(title, right - 2 * MARGIN, LINES) if title else []
    head = MARGIN + bool(title) * (len(words) * letters.line + MARGIN)
    top = head + letters.line * max(map(len, heads)) + MARGIN
    sheet = Image.new("RGB", (right, top + len(cells) * (height + MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    letters.write(draw, (MARGIN, MARGIN), words)
    for x, lines in enumerate(heads):
        letters.write(draw, (left + x * (width + MARGIN), head), lines)
    for y, (lines, row) in enumerate(zip(names, cells.values(), strict=True)):
        place = top + y * (height + MARGIN)
        letters.write(draw, (MARGIN, place + (height - len(lines) * letters.line) // 2), lines)
        for x, image in enumerate(row):
            sheet.paste(image, (left + x * (width + MARGIN), place))
    return sheet


def _spread(names: list[str]) -> list[str]:
    """All names, or as many as a sheet takes: the first, the last, and others evenly between."""
    if len(names) <= ROWS:
        return names
    return [names[round(at * (len(names) - 1) / (ROWS - 1))] for at in range(ROWS)]
