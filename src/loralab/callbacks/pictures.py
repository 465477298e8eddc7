"""Pictures as files, and several of them on a sheet."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from loralab.files import atomic_path

MARGIN = 8
LEAST_CELL = 128
"""Smaller pictures are enlarged on a sheet, whole pixels to whole pixels."""


def to_image(pixels: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] as a picture."""
    scaled = ((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(scaled.permute(1, 2, 0).contiguous().numpy())


def save(image: Image.Image, path: Path, parameters: str) -> Path:
    """Writes a PNG with its settings in the `parameters` text, where web UIs look for them."""
    info = PngInfo()
    info.add_itxt("parameters", parameters)
    with atomic_path(path) as beside:
        image.save(beside, format="PNG", pnginfo=info)
    return path


def grid(rows: Mapping[str, Sequence[Image.Image]], columns: Sequence[str]) -> Image.Image:
    """A sheet with a row for each name and a column for each prompt, both written beside."""
    images = [image for row in rows.values() for image in row]
    factor = max(1, -(-LEAST_CELL // max(max(image.size) for image in images)))
    width, height = (factor * max(image.size[axis] for image in images) for axis in (0, 1))
    font = ImageFont.load_default(13)
    left = MARGIN + max(int(font.getlength(name)) for name in rows) + MARGIN
    words = [textwrap.wrap(column, max(8, int(width / 7))) or ["(no words)"] for column in columns]
    top = MARGIN + 16 * max(map(len, words)) + MARGIN
    sheet = Image.new("RGB", (left + len(columns) * (width + MARGIN), top + len(rows) * (height + MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for x, lines in enumerate(words):
        draw.multiline_text((left + x * (width + MARGIN), MARGIN), "\n".join(lines), "black", font, spacing=3)
    for y, (name, row) in enumerate(rows.items()):
        draw.text((MARGIN, top + y * (height + MARGIN) + height // 2 - 8), name, "black", font)
        for x, image in enumerate(row):
            enlarged = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (left + x * (width + MARGIN), top + y * (height + MARGIN)))
    return sheet
