"""Image files: of one colour, a gradient, damaged in each way."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def gradient(width: int = 40, height: int = 24) -> np.ndarray:
    """Red grows to the right, green downwards: each of the eight orientations looks different."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 6, y * 10, np.full_like(x, 60)], -1).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def picture(path: Path, size: tuple[int, int] = (16, 12), colour: str = "red", caption: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf8")
    return path


def broken_files(folder: Path) -> dict[str, Path]:
    """One file of each kind of damage → where it is."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    found = {"empty": folder / "empty.png", "text": folder / "text.jpg", "bomb": folder / "bomb.png"}
    found["empty"].write_bytes(b"")
    found["text"].write_text("this is no picture")
    for extension in ("png", "jpg", "webp", "gif", "bmp", "tiff", "avif"):
        whole = save(folder / f"whole.{extension}", noise).read_bytes()
        found[f"truncated {extension}"] = path = folder / f"truncated.{extension}"
        path.write_bytes(whole[: len(whole) * 2 // 3])
    head = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    found["bomb"].write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IEND\xaeB`\x82")
    return found
