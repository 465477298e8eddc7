"""Pictures as files, and their thumbnails on a sheet."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from loralab.writing import atomic_path

MARGIN = 8
CELLS = (96, 256)
"""Minimum and maximum of a thumbnail's longer side, in pixels."""
SHEET = 4_000_000
"""Total pixels of a sheet's thumbnails; the more there are, the smaller each is."""
ROWS, COLUMNS = 24, 16
"""A sheet shows at most so many: the first and the last row and some between them, and the first columns."""


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] as a picture."""
    scaled = ((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(scaled.permute(1, 2, 0).contiguous().numpy())


def save(image: Image.Image, path: Path, parameters: str) -> Path:
    """Writes a PNG with its settings in the `parameters` text, where web UIs look for them."""
    info = PngInfo()
    info.add_itxt("parameters", parameters)
    with atomic_path(path, "hydra.run.dir") as beside:
        image.save(beside, format="PNG", pnginfo=info)
    return path


def thumbnail(image: Image.Image, side: int = CELLS[1]) -> Image.Image:
    """The picture with a longer side of at most `side` pixels; a small one is enlarged by a whole number."""
    longer = max(image.size)
    if longer > side:
        scale = side / longer
        width, height = (max(1, round(length * scale)) for length in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)
    factor = max(1, side // 2 // longer)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def grid(rows: Mapping[str, Sequence[Image.Image]], columns: Sequence[str]) -> Image.Image:
    """A sheet with a row for each name and a column for each prompt, both written beside: thumbnails, as many and as
    large as a sheet of bounded size takes."""
    shown = {name: list(rows[name])[:COLUMNS] for name in _spread(list(rows))}
    columns = columns[:COLUMNS]
    side = min(CELLS[1], max(CELLS[0], math.isqrt(SHEET // (len(shown) * len(columns)))))
    cells = {name: [thumbnail(image, side) for image in row] for name, row in shown.items()}
    width, height = (max(image.size[axis] for row in cells.values() for image in row) for axis in (0, 1))
    font = ImageFont.load_default(13)
    left = MARGIN + max(int(font.getlength(name)) for name in cells) + MARGIN
    words = [_wrapped(column, max(8, int(width / 7))) for column in columns]
    top = MARGIN + 16 * max(map(len, words)) + MARGIN
    sheet = Image.new("RGB", (left + len(columns) * (width + MARGIN), top + len(cells) * (height + MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for x, lines in enumerate(words):
        draw.multiline_text((left + x * (width + MARGIN), MARGIN), "\n".join(lines), "black", font, spacing=3)
    for y, (name, row) in enumerate(cells.items()):
        draw.text((MARGIN, top + y * (height + MARGIN) + height // 2 - 8), name, "black", font)
        for x, image in enumerate(row):
            sheet.paste(image, (left + x * (width + MARGIN), top + y * (height + MARGIN)))
    return sheet


def _spread(names: list[str]) -> list[str]:
    """All names, or as many as a sheet takes: the first, the last, and others evenly between."""
    if len(names) <= ROWS:
        return names
    return [names[round(at * (len(names) - 1) / (ROWS - 1))] for at in range(ROWS)]


def _wrapped(text: str, width: int) -> list[str]:
    """A prompt in lines of so many letters, at most six."""
    return textwrap.wrap(text, width, max_lines=6, placeholder=" …") or ["(no words)"]
