"""The log of losses sample by sample: `losses/RANK.log` in a run's folder, 20 bytes a sample, less when compressed.

A file is a row of blocks, each appended as a whole: a header with the length and the CRC-32 of what follows, then
zlib-compressed records, or the images that later records name by number. A block that a killed process has not
finished, or that was damaged, is skipped when the file is read; those after it count.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from loralab.writing import atomic_path, writing

FOLDER = "losses"
SETTING = "hydra.run.dir"
_WITHOUT_BASE = [("step", "<u4"), ("image", "<u4"), ("timestep", "<f4"), ("loss", "<f4")]
RECORD = np.dtype([*_WITHOUT_BASE, ("base", "<f4")])
"""The optimizer step that the sample was part of, counted from 1; the number of its image; its timestep, 0 to 1000;
its loss before any weight, the mean over the latent elements that its mask counts; the base model's for the same noise
and caption, NaN where it was not asked."""
_HEADER = struct.Struct("<4sc3xII")
_MAGIC, _IMAGES = b"LLL1", b"i"
_RECORDS = {b"b": RECORD, b"r": np.dtype(_WITHOUT_BASE)}
"""By the kind of their block; the second was written by earlier versions."""


@dataclass(frozen=True, slots=True)
class LoggedImage:
    """What is known of an image without its file."""

    path: str
    digest: str
    """See Item."""
    caption: str
    """As it is in its file."""
    tags: list[str]


@dataclass(slots=True)
class Losses:
    """The contents of a file."""

    images: dict[int, LoggedImage] = field(default_factory=dict)
    records: np.ndarray = field(default_factory=lambda: np.empty(0, RECORD))
    damaged: int = 0
    """Bytes that could not be read, besides an unfinished last block."""


def file_of(folder: Path, rank: int) -> Path:
    """The log of one process of a run."""
    return folder / FOLDER / f"{rank}.log"


def append(file: Path, records: np.ndarray, images: dict[int, LoggedImage]) -> None:
    """Adds records, and the images that they name for the first time. Raises a WriteError, and adds nothing then."""
    data = _blocks(records, images)
    with writing(file, SETTING):
        file.parent.mkdir(exist_ok=True)
        before = file.stat().st_size if file.exists() else 0
        try:
            with open(file, "ab") as out:
                out.write(data)
        except OSError:
            os.truncate(file, before)
            raise


def cut(source: Path, target: Path, step: int) -> Losses:
    """Writes the records of a file up to an optimizer step to `target`, which may be the same; returns them."""
    found = read(source)
    found.records = found.records[found.records["step"] <= step]
    with atomic_path(target, SETTING) as beside:
        beside.write_bytes(_blocks(found.records, found.images))
    return found


def read(file: Path) -> Losses:
    """What is in a file, also while it is written. Raises an OSError where it cannot be opened."""
    data = file.read_bytes()
    found, parts, at = Losses(), [], 0
    while at < len(data):
        content, end = _block(data, at)
        if content is None:
            following = data.find(_MAGIC, at + 1)
            found.damaged += following - at if following >= 0 else 0
            at = following if following >= 0 else len(data)
            continue
        if kind := _RECORDS.get(data[at + 4 : at + 5]):
            parts.append(_records(np.frombuffer(content, kind)))
        else:
            found.images |= {number: LoggedImage(**image) for number, image in json.loads(content)}
        at = end
    found.records = np.concatenate(parts) if parts else found.records
    return found


def read_all(run: Path) -> tuple[list[LoggedImage], np.ndarray, list[str]]:
    """The images and records of all processes of a run, an image being a path with a caption; and notes on damage."""
    numbers: dict[tuple[str, str], int] = {}
    images: list[LoggedImage] = []
    parts, notes = [np.empty(0, RECORD)], []
    for file in sorted((run / FOLDER).glob("*.log")):
        try:
            log = read(file)
        except (OSError, ValueError, TypeError) as error:
            notes.append(f"{FOLDER}/{file.name} cannot be read: {type(error).__name__}")
            continue
        place = np.full(max(log.images, default=-1) + 2, -1)
        for number, image in log.images.items():
            key = image.path, image.caption
            if key not in numbers:
                numbers[key] = len(images)
                images.append(image)
            place[number] = numbers[key]
        records = log.records.copy()
        known = place[np.minimum(records["image"], len(place) - 1)]
        records["image"] = np.maximum(known, 0)
        parts.append(records[known >= 0])
        if log.damaged or (known < 0).any():
            notes.append(f"{FOLDER}/{file.name} is damaged in part: {len(parts[-1])} samples could be read")
    return images, np.concatenate(parts), notes


def _records(found: np.ndarray) -> np.ndarray:
    """As RECORD has them."""
    if found.dtype == RECORD:
        return found
    records = np.zeros(len(found), RECORD)
    records["base"] = np.nan
    for name in found.dtype.names or ():
        records[name] = found[name]
    return records


def _blocks(records: np.ndarray, images: dict[int, LoggedImage]) -> bytes:
    rows = json.dumps([[number, asdict(image)] for number, image in images.items()])
    blocks = [(_IMAGES, rows.encode())] if images else []
    blocks += [(b"b", records.tobytes())] if len(records) else []
    packed = [(kind, zlib.compress(content)) for kind, content in blocks]
    return b"".join(_HEADER.pack(_MAGIC, kind, len(part), zlib.crc32(part)) + part for kind, part in packed)


def _block(data: bytes, at: int) -> tuple[bytes | None, int]:
    """The content of the block at a position, None where there is no whole one; and where it ends."""
    if at + _HEADER.size > len(data):
        return None, len(data)
    magic, kind, length, checksum = _HEADER.unpack_from(data, at)
    end = at + _HEADER.size + length
    part = data[at + _HEADER.size : end]
    if magic != _MAGIC or kind not in (*_RECORDS, _IMAGES) or len(part) < length or zlib.crc32(part) != checksum:
        return None, end
    return zlib.decompress(part), end
