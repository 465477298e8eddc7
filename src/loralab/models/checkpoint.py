"""What a file of tensors contains, read from its index: no tensor is read and no code in it is run."""

from __future__ import annotations

import json
import pickletools
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import IO, Literal

from loralab.errors import UserError, user_error
from loralab.files import what_is_at

LEFTOVERS = (
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)
"""What training left beside the weights in many .ckpt files, the first of SD 1.x among them."""

LIMIT = 100_000_000
"""Bytes; no valid index is larger."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The index of a file."""

    format: Literal["safetensors", "pickle"]
    names: set[str]
    """Of its tensors; in a pickle also other strings."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """By name; a pickle's index has none."""
    metadata: dict[str, str] = field(default_factory=dict)
    code: tuple[str, ...] = ()
    """What a pickle would call on loading, beside what rebuilds tensors."""


class Unreadable(Exception):
    """The file is not a checkpoint, or incomplete; the message says which."""


def examine(path: Path, setting: str) -> Contents:
    """The index of a file that is to be loaded; UserError naming `setting` where it is damaged or would run code."""
    try:
        inside = contents(path)
    except Unreadable as error:
        raise user_error(setting, f"{path} {error}", "download or copy the file again") from None
    except OSError as error:
        raise user_error(setting, f"{path} cannot be read: {error.strerror}", "check its permissions") from None
    if inside.code:
        raise holds_code(path, setting, ", ".join(inside.code[:3]))
    return inside


def holds_code(path: Path, setting: str, what: str) -> UserError:
    found = f"{path} contains code that loading it would run ({what}); it was not run"
    return user_error(setting, found, "use a .safetensors version, or convert it with a tool you trust")


def contents(path: Path) -> Contents:
    """The index of a .safetensors file or a pickle as torch writes it, told apart by their first bytes."""
    size = path.stat().st_size
    if not path.is_file():
        raise Unreadable(f"{what_is_at(path)}, not a file")
    with path.open("rb") as file:
        start = file.read(64)
        file.seek(0)
        if not start.strip(b"\0"):
            raise Unreadable("is empty" if not start else "contains only zeros: the download is incomplete")
        if start[8:9] == b"{":
            return _safetensors(file, size)
        if start.startswith(b"PK\x03\x04"):
            return _zip(path)
        if start.startswith(b"\x80"):
            return _pickle(_ops(file, pickles=4))
        if start.startswith(b"version https://git-lfs"):
            raise Unreadable("is a Git LFS pointer, not the file itself (run: git lfs pull)")
        if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
            raise Unreadable("is a web page: an error page was downloaded instead")
    raise Unreadable("is not a checkpoint")


def _safetensors(file: IO[bytes], size: int) -> Contents:
    length = int.from_bytes(file.read(8), "little")
    if length > LIMIT:
        raise Unreadable("is not a checkpoint")
    try:
        header = json.loads(file.read(length))
        metadata = {str(key): str(value) for key, value in (header.pop("__metadata__", None) or {}).items()}
        shapes = {name: tuple(map(index, tensor["shape"])) for name, tensor in header.items()}
        whole = 8 + length + max((index(tensor["data_offsets"][1]) for tensor in header.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Unreadable("is truncated or damaged" if 8 + length > size else "is not a checkpoint") from None
    if size < whole:
        raise Unreadable(f"is truncated: {size:,} of {whole:,} bytes")
    return Contents("safetensors", set(shapes), shapes, metadata)


def _zip(path: Path) -> Contents:
    try:
        with zipfile.ZipFile(path) as archive:
            indices = [info for info in archive.infolist() if info.filename.endswith("data.pkl")]
            if not indices or indices[0].file_size > LIMIT:
                raise Unreadable("is not a checkpoint")
            with archive.open(indices[0]) as file:
                return _pickle(_ops(file, pickles=1))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError, zlib.error):
        raise Unreadable("is truncated or damaged") from None  # which of them depends on where


def _ops(file: IO[bytes], pickles: int) -> Iterator[tuple[str, object]]:
    """The operations of the pickles that a file begins with: (name, argument)."""
    try:
        for number in range(pickles):
            if number:
                if not file.read(1):  # not a checkpoint, but a whole pickle: its calls are reported
                    return
                file.seek(-1, 1)
            for op, argument, _ in pickletools.genops(file):
                yield op.name, argument
    except ValueError:
        raise Unreadable("is truncated, or not a checkpoint") from None


def _pickle(ops: Iterator[tuple[str, object]]) -> Contents:
    """Reads a pickle's operations without performing them: the strings in it, and what it would call."""
    strings: list[str] = []  # as they are pushed, those fetched from the memo too
    memo: dict[object, str] = {}
    called: dict[str, None] = {}
    for name, argument in ops:
        if "UNICODE" in name:
            strings.append(str(argument))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT", "MEMOIZE") and strings:
            memo[len(memo) if name == "MEMOIZE" else argument] = strings[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET") and argument in memo:
            strings.append(memo[argument])
        elif name in ("GLOBAL", "INST"):
            called[str(argument).replace(" ", ".", 1)] = None
        elif name == "STACK_GLOBAL":
            called[".".join(strings[-2:])] = None
    return Contents("pickle", set(strings), code=tuple(name for name in called if not _rebuilds_tensors(name)))


def _rebuilds_tensors(name: str) -> bool:
    """Whether a call belongs to the tensors of a checkpoint. (What is let through here, torch still refuses to run.)"""
    plain = ("collections.OrderedDict", "collections.defaultdict", "_codecs.encode", "builtins.bytearray")
    return name in plain or name in LEFTOVERS or name.startswith("torch.")
