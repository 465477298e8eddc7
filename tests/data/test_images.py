"""Image files of every kind, whole and broken, as a trainer wants to see them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loralab.data import images
from loralab.data.images import ImageError
from tests.support.images import broken_files, gradient, save

LOSSLESS = {"png": {}, "webp": {"lossless": True}, "tiff": {}}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["png", "webp", "tiff", "jpg", "avif"])
def test_exif_orientation_is_applied_to_size_and_pixels(tmp_path: Path, extension: str, orientation: int) -> None:
    """EXIF 2.3, tag 274: which way each orientation is to be turned, written out in array operations."""
    upright = gradient()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    options = LOSSLESS.get(extension, {"quality": 95})
    path = save(tmp_path / f"a.{extension}", np.ascontiguousarray(stored), exif=exif, **options)

    header = images.header(path)
    assert (header.width, header.height) == (40, 24) == images.size(path)
    assert header.turned == (orientation != 1)
    rgb, alpha = images.read(path)
    assert alpha is None
    assert np.abs(rgb.astype(int) - upright).max() <= (0 if extension in LOSSLESS else 24)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
@pytest.mark.parametrize("orientation", [3, 6, 7])
def test_an_uncompressed_tiff_of_any_mode_is_turned(tmp_path: Path, mode: str, orientation: int) -> None:
    """The same picture as a PNG of the same orientation (where PNG has the mode)."""
    grey = gradient()[..., 0].astype(np.uint16) * 257
    picture = Image.fromarray(grey if mode == "I;16" else gradient()).convert(mode)
    exif = Image.Exif()
    exif[274] = orientation
    picture.save(tmp_path / "a.tiff", exif=exif)
    (picture.convert("RGB") if mode == "CMYK" else picture).save(tmp_path / "a.png", exif=exif)
    header = images.header(tmp_path / "a.tiff")
    turned, expected = (images.read(tmp_path / f"a.{extension}", header[:2])[0] for extension in ("tiff", "png"))
    assert np.array_equal(turned, expected)


def test_transparency_is_composited_on_white_and_kept_as_a_mask(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[..., 3] = np.linspace(0, 255, 64).round().reshape(8, 8)
    rgb, alpha = images.read(save(tmp_path / "a.png", pixels))
    assert np.array_equal(alpha, pixels[..., 3])
    share = pixels[..., 3:].astype(float) / 255
    assert np.abs(rgb - (pixels[..., :3] * share + 255 * (1 - share))).max() <= 1


def test_an_alpha_channel_without_transparency_is_no_mask(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), 255, np.uint8)
    assert images.read(save(tmp_path / "a.png", pixels))[1] is None


def test_palette_transparency_and_grey(tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putdata([0, 1])
    palette.save(tmp_path / "a.png", transparency=0)
    rgb, alpha = images.read(tmp_path / "a.png")
    assert rgb.tolist() == [[[255, 255, 255], [10, 20, 30]]]
    assert alpha is not None
    assert alpha.tolist() == [[0, 255]]
    grey = images.read(save(tmp_path / "b.png", np.array([[0, 7, 255]], np.uint8)))[0]
    assert grey.tolist() == [[[0] * 3, [7] * 3, [255] * 3]]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for extension in ("png", "tiff"):
        rgb, _ = images.read(save(tmp_path / f"a.{extension}", values))
        assert rgb[0, :, 0].tolist() == [round(v / 257) for v in values[0].tolist()]


def test_one_of_the_sixteen_bit_greys_may_be_transparent(tmp_path: Path) -> None:
    values = np.array([[0, 5000, 5001]], np.uint16)
    rgb, alpha = images.read(save(tmp_path / "a.png", values, transparency=5000))
    assert rgb[0, :, 0].tolist() == [0, 255, 19]
    assert alpha is not None
    assert alpha.tolist() == [[255, 0, 255]]


def test_what_changes_its_size_is_not_stretched(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", gradient())
    size = images.size(path)
    save(path, gradient(50, 24))
    with pytest.raises(ImageError, match="was 40 × 24 when the run started and is 50 × 24 now"):
        images.read(path, size)


def test_sixteen_bit_colour(tmp_path: Path) -> None:
    """A PNG of three 16-bit channels, written by hand: Pillow cannot."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    row = b"\0" + struct.pack(">3H", 0, 0x8000, 0xFFFF)
    head = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(data)
    assert images.read(tmp_path / "a.png")[0].tolist() == [[[0, 128, 255]]]


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    rgb, _ = images.read(tmp_path / "a.jpg")
    assert np.abs(rgb.astype(int) - [255, 0, 0]).max() <= 4
    assert images.header(tmp_path / "a.jpg").kind == "JPEG CMYK"


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_animations_show_their_first_frame(tmp_path: Path, extension: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{extension}", save_all=True, append_images=frames[1:], lossless=True)
    assert images.read(tmp_path / f"a.{extension}")[0][0, 0].tolist() == [255, 0, 0]


def test_other_formats(tmp_path: Path) -> None:
    for extension in ("bmp", "gif", "avif", "jpeg"):
        path = save(tmp_path / f"a.{extension}", gradient())
        assert images.size(path) == (40, 24)
        assert images.read(path)[0].shape == (24, 40, 3)


def test_what_is_no_whole_image_is_refused_with_a_reason(tmp_path: Path) -> None:
    for kind, path in broken_files(tmp_path).items():
        with pytest.raises(ImageError) as error:
            images.header(path)
        reason = str(error.value)
        assert {"empty": "empty", "text": "not an image", "bomb": "bomb"}.get(kind, "") in reason, kind
        with pytest.raises(ImageError):
            images.read(path)
    with pytest.raises(ImageError, match="not found"):
        images.read(tmp_path / "nothing.png")


def test_bytes_behind_an_image_do_no_harm(tmp_path: Path) -> None:
    """Cameras and tools append things to files that are whole."""
    for extension in ("png", "jpg", "gif"):
        path = save(tmp_path / f"a.{extension}", gradient())
        path.write_bytes(path.read_bytes() + b"appended" * 5)
        assert images.size(path) == (40, 24)


def test_the_size_comes_from_the_header(tmp_path: Path) -> None:
    """Damage in the middle of the pixels is only found when they are decoded."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    path = save(tmp_path / "a.png", noise)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    path.write_bytes(data)
    assert images.size(path) == (300, 300)
    with pytest.raises(ImageError):
        images.read(path)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_matter(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", gradient(), exif=b"Exif\0\0MM\0*garbage")
    assert images.size(path) == (40, 24)
    assert images.read(path)[0].shape == (24, 40, 3)


def exact_area(pixels: np.ndarray, length: int, axis: int) -> np.ndarray:
    """The mean under each new cell, by integrating: differences of the running sum at the cells' edges."""
    pixels = np.moveaxis(pixels.astype(float), axis, 0)
    total = np.concatenate([np.zeros((1, *pixels.shape[1:])), np.cumsum(pixels, 0)])
    edges = np.linspace(0, len(pixels), length + 1)
    whole = np.minimum(edges.astype(int), len(pixels) - 1)
    part = (edges - whole).reshape(-1, *[1] * (pixels.ndim - 1))
    at_edges = total[whole] + part * (total[whole + 1] - total[whole])
    return np.moveaxis(np.diff(at_edges, axis=0) * length / len(pixels), 0, axis)


@pytest.mark.parametrize("size", [(20, 12), (33, 17), (40, 7), (1, 1), (39, 24)])
def test_shrinking_takes_the_mean_of_the_area(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (24, 40, 3), np.uint8)
    expected = exact_area(exact_area(noise, size[1], 0), size[0], 1)
    assert np.abs(images.resize(noise, size) - expected).max() <= 0.51


def test_enlarging_is_lanczos() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (24, 40, 3), np.uint8)
    for size in ((80, 48), (41, 20)):
        expected = Image.fromarray(noise).resize(size, Image.Resampling.LANCZOS)
        assert np.array_equal(images.resize(noise, size), np.asarray(expected))


@pytest.mark.parametrize("size", [(40, 24), (30, 20), (70, 50)])
def test_a_window_is_a_part_of_the_whole(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (24, 40, 3), np.uint8)
    whole = images.resize(noise, size)
    assert np.array_equal(images.fit(noise, size, (16, 8), (5, 9)), whole[5:13, 9:25])


def test_a_needle_fits_its_bucket_without_filling_the_memory() -> None:
    """1 × 20000 pixels that cover a bucket 256 px wide are 5 million rows."""
    needle = np.arange(20_000, dtype=np.uint32).astype(np.uint8).reshape(-1, 1)
    window = images.fit(needle, (256, 5_120_000), (256, 1024), (2_559_488, 0))
    assert window.shape == (1024, 256)
    assert set(np.unique(window)) <= set(range(256))
    assert np.array_equal(window[:, 0], window[:, 255])
