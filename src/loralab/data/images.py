"""Image files: their headers, and their pixels as 8-bit RGB.

Sizes and pixels are as displayed (EXIF orientation applied). Arrays are numpy, (H, W, 3) or (H, W), uint8.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from math import ceil
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from loralab.data.sources.mounts import opened
from loralab.errors import UserError

# Only these are tried: EPS and PDF would start other programs.
_FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JXL", "HEIF")

_EXTRAS = {
    "HEIF": (rb"....ftyp(hei[cxms]|hev[cxms]|mif1|msf1)", "pillow-heif", "heic"),
    "JXL": (rb"\xff\x0a|\0\0\0\x0cJXL ", "pillow-jxl-plugin", "jxl"),
    "AVIF": (rb"....ftypavi[fs]", "a Pillow with AVIF", ""),
}
"""Formats that not every installation reads: how a file begins, the package that reads it, and the extra for it."""

MAX_PIXELS = 178_956_970
"""Larger images are refused: a few kilobytes can claim to be a gigapixel image (the limit is Pillow's own)."""
Image.MAX_IMAGE_PIXELS = None  # checked in _open, with a better message
warnings.filterwarnings("ignore", module="PIL")  # they name no file, and real errors are raised

_MAX_ENLARGED = 1 << 24

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112


class ImageError(Exception):
    """A file that cannot be used as an image; the message says why, without the path."""


class Header(NamedTuple):
    """What is known about an image without decoding it."""

    width: int
    """Pixels, as displayed."""
    height: int
    kind: str
    """Format and mode, e.g. "JPEG CMYK"."""
    turned: bool
    """An EXIF orientation other than upright is applied."""


def header(path: str | bytes | os.PathLike) -> Header:
    """Reads the header, and the end of the file to detect a truncated one. Raises ImageError if it cannot be used."""
    with _open(path) as image:
        orientation = _orientation(image)
        width, height = image.size
        if orientation >= 5 and image.format != "TIFF":
            width, height = height, width
        has_clear_colour = image.has_transparency_data and not image.mode.upper().endswith("A")
        kind = f"{image.format} {image.mode}{'+A' if has_clear_colour else ''}"
        if not _looks_whole(image):
            _decode(image)
        return Header(width, height, kind, orientation != 1)


def size(path: str | bytes | os.PathLike) -> tuple[int, int]:
    """(width, height) in pixels as displayed, from the header alone."""
    return header(path)[:2]


def read(path: str | bytes | os.PathLike, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """RGB (H, W, 3), transparency composited on white, and alpha (H, W) or None where the image is opaque.

    The first frame of an animated file; 16-bit values are scaled to 8 bits. size: (width, height) that is expected.
    Raises ImageError, also if the size has changed.
    """
    with _open(path) as image:
        orientation = 1 if image.format == "TIFF" else _orientation(image)  # Pillow turns TIFFs by itself
        rgb, alpha = _to_rgb(_decode(image))
    if orientation in _TURNS:
        rgb = rgb.transpose(_TURNS[orientation])
        alpha = alpha and alpha.transpose(_TURNS[orientation])
    if size is not None and rgb.size != tuple(size):
        raise ImageError(f"was {size[0]} × {size[1]} when the run started and is {rgb.width} × {rgb.height} now")
    return np.asarray(rgb), None if alpha is None else np.asarray(alpha)


def thumbnail(path: str | bytes | os.PathLike, side: int) -> np.ndarray:
    """RGB (H, W, 3) no larger than `side`; JPEGs are decoded at a fraction of their size. Raises ImageError."""
    with _open(path) as image:
        orientation = 1 if image.format == "TIFF" else _orientation(image)
        image.draft("RGB", (side, side))
        rgb, _ = _to_rgb(_decode(image))
    rgb.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(rgb.transpose(_TURNS[orientation]) if orientation in _TURNS else rgb)


def read_grey(path: str | bytes | os.PathLike) -> np.ndarray:
    """Luminance (H, W): how a mask file is read."""
    rgb, _ = read(path)
    return np.asarray(Image.fromarray(rgb).convert("L"))


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels (H, W[, 3]) at size (width, height): the mean of the area covered when shrinking, else Lanczos."""
    return fit(pixels, size, size, (0, 0))


def fit(pixels: np.ndarray, size: tuple[int, int], window: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
    """The window (width, height) at corner (top, left) of the pixels (H, W[, 3]) resized to `size` (width, height)."""
    height, width = pixels.shape[:2]
    (top, left), (columns, rows) = corner, window
    if (width, height) == tuple(size):
        return pixels[top : top + rows, left : left + columns]
    across, down = width / size[0], height / size[1]
    if across < 1 or down < 1:
        return _lanczos(pixels, size, window, corner)
    shrunk = _area(_area(pixels, down, top, rows).swapaxes(0, 1), across, left, columns).swapaxes(0, 1)
    return np.rint(shrunk).clip(0, 255).astype(np.uint8)


def _lanczos(pixels: np.ndarray, size: tuple[int, int], window: tuple[int, int], corner: tuple[int, int]) -> np.ndarray:
    image, (top, left), (columns, rows) = Image.fromarray(pixels), corner, window
    if size[0] * size[1] <= _MAX_ENLARGED:
        return np.asarray(image.resize(size, Image.Resampling.LANCZOS))[top : top + rows, left : left + columns]
    # 1 × 20000 pixels that cover a bucket would be gigabytes. Not for all: Pillow rounds a box a little differently.
    across, down = image.width / size[0], image.height / size[1]
    box = (left * across, top * down, (left + columns) * across, (top + rows) * down)
    return np.asarray(image.resize(window, Image.Resampling.LANCZOS, box))


def _area(pixels: np.ndarray, scale: float, start: int, length: int) -> np.ndarray:
    """Cells start … start + length of the first axis shrunk by `scale`: each is the mean of the old cells under it,
    those at its ends weighted by the part covered (OpenCV's INTER_AREA; Pillow's BOX takes or leaves whole pixels)."""
    shrunk = np.empty((length, *pixels.shape[1:]), np.float32)
    for cell in range(length):
        low, high = (start + cell) * scale, (start + cell + 1) * scale
        covered = np.arange(int(low), min(ceil(high), len(pixels)))
        share = (np.minimum(covered + 1, high) - np.maximum(covered, low)) / scale
        under = pixels[covered[0] : covered[-1] + 1].astype(np.float32)
        shrunk[cell] = np.tensordot(share.astype(np.float32), under, 1)
    return shrunk


@contextmanager
def _open(path: str | bytes | os.PathLike) -> Iterator[ImageFile.ImageFile]:
    """An opened image that passed the size check; any error within is raised as an ImageError."""
    try:
        # from an open file: Pillow memory-maps a TIFF opened by name, and then rotates its size but not its rows
        with opened(path) as file, _decoder(file) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise ImageError(
                    f"claims {width} × {height} pixels; images above {MAX_PIXELS // 10**6} megapixels are refused "
                    "as possible decompression bombs"
                )
            if image.mode == "F":
                raise ImageError("has floating-point pixels; save it with 8 or 16 bits per channel")
            yield image
    except (ImageError, UserError):  # a server that cannot be reached is no damaged image
        raise
    except PermissionError as error:
        raise ImageError("cannot be read (permission denied)") from error
    except FileNotFoundError as error:
        raise ImageError("not found") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(_missing(path) or "is not an image of a supported format") from error
    except Exception as error:  # decoders may raise anything on damaged files
        raise ImageError(f"cannot be decoded ({error or type(error).__name__})") from error


def _decoder(file: IO[bytes]) -> ImageFile.ImageFile:
    if file.seek(0, os.SEEK_END) == 0:
        raise ImageError("is an empty file")
    file.seek(0)
    return Image.open(file, formats=_formats())


@cache
def _formats() -> list[str]:
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401  # pyright: ignore[reportMissingImports]
    with suppress(ImportError):
        import pillow_heif  # pyright: ignore[reportMissingImports]

        pillow_heif.register_heif_opener()
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _missing(path: str | bytes | os.PathLike) -> str | None:
    """What must be installed to read an image, if its format is known but not supported here."""
    with opened(path) as file:
        start = file.read(16)
    for name, (beginning, package, extra) in _EXTRAS.items():
        if name not in _formats() and re.match(beginning, start, re.DOTALL):
            return f"needs {package}, which is not installed" + (f": pip install 'loralab[{extra}]'" if extra else "")
    return None


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation 1…8; 1 if there is none or it is invalid."""
    with suppress(Exception):  # damaged EXIF does not make an image unusable
        # that of PNG would decode the pixels to find EXIF data after them
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
        return value if value in _TURNS else 1
    return 1


def _looks_whole(image: ImageFile.ImageFile) -> bool:
    """False if the file's end is missing or unusual, so that only decoding shows whether it is complete."""
    file = image.fp
    if file is None or image.format not in ("PNG", "JPEG", "MPO", "GIF", "BMP", "TIFF"):
        return True  # Pillow reads WebP and AVIF completely when it opens them
    position = file.tell()
    length = file.seek(0, os.SEEK_END)
    file.seek(max(0, length - 16))
    tail = file.read(16)
    file.seek(position)
    if image.format == "PNG":
        return b"IEND" in tail
    if image.format == "GIF":
        return tail.endswith(b";")
    if image.format in ("JPEG", "MPO"):
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    return False


def _decode(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"is damaged ({error or type(error).__name__})") from error
    return image


def _to_rgb(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    if image.mode.startswith("I"):  # 16-bit grey
        values, clear = np.asarray(image).astype(np.int64).clip(0, 65535), image.info.get("transparency")
        grey = ((values + 128) // 257).astype(np.uint8)
        image = Image.fromarray(
            grey if clear is None else np.dstack([grey, np.where(values == clear, 0, 255).astype(np.uint8)])
        )
    if not image.has_transparency_data:
        return image.convert("RGB"), None
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return rgba.convert("RGB"), None
    white = Image.new("RGBA", rgba.size, "white")
    white.alpha_composite(rgba)
    return white.convert("RGB"), alpha
