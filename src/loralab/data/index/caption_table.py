"""Captions from one file for a whole folder: sd-scripts' JSON, Hugging Face imagefolder's JSONL and CSV, Parquet."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterator
from typing import IO, Any

from loralab.data.captions import as_lines
from loralab.data.sources.mounts import opened
from loralab.errors import user_error

NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""The default names of such a file (Hugging Face's convention)."""

_KINDS = (".json", ".jsonl", ".csv", ".parquet")
_FILE_COLUMNS = ("file_name", "image", "image_path", "path")
_TEXT_COLUMNS = ("caption", "text", "prompt")


class CaptionTable:
    """The captions of one metadata file, by image."""

    def __init__(self, path: str, root: str, setting: str = "data.metadata", separator: str = ",") -> None:
        """path, root: of the file and of the folder that names in it start at, absolute. setting: where it was given;
        separator: between tags. Raises a UserError if the file cannot be read."""
        self.path, self.root = path, root
        self._captions: dict[str, str | None] = {}
        self.repeated = 0
        """Rows about the same image as an earlier row: the last one is used."""
        try:
            for name, row in _rows(path):
                self.repeated += (key := self._key(name)) in self._captions
                self._captions[key] = _caption(row, f"{separator.strip()} ")
        except _Unusable as error:
            remedy = "use one row per image, with its file_name and its caption or text"
            raise user_error(setting, f"{path} {error}", remedy) from None
        self._used: set[str] = set()
        self._exact: set[str] = set()

    def caption(self, below: str) -> str | None:
        """The caption of an image, looked up by its path below the folder or its name, each also without extension;
        None if there is none. A name that is the path of another image is not used for this one."""
        name = below.rpartition("/")[2]
        for key in (below, os.path.splitext(below)[0]):
            if key in self._captions:
                self._exact.add(key)
                self._used.add(key)
                return self._captions[key]
        for key in (name, os.path.splitext(name)[0]):
            if key in self._captions and key not in self._exact:
                self._used.add(key)
                return self._captions[key]
        return None

    def unused(self) -> Iterator[str]:
        """The paths of entries that no image used, in the file's order."""
        return (os.path.join(self.root, name) for name in self._captions if name not in self._used)

    def _key(self, name: str) -> str:
        name = os.path.normpath(name).replace("\\", "/")
        return os.path.relpath(name, self.root) if name.startswith(f"{self.root}/") else name


def caption_of_sample(path: str) -> str:
    """The caption in the JSON file of one sample, as in WebDataset; "" where it has none. Raises a UserError that names
    the file if it cannot be read."""
    try:
        with opened(path) as file:
            row = json.load(file)
        return (_caption(row, ", ") if isinstance(row, dict) else None) or ""
    except _Unusable as error:
        raise user_error(path, str(error), "give its caption as text") from None
    except (ValueError, RecursionError) as error:  # ValueError: also UTF-8 errors
        raise user_error(path, f"is not JSON ({error})", "mend it, or pack a caption file beside it") from None


def _rows(path: str) -> Iterator[tuple[str, Any]]:
    """(image, its entry) for each row of the file."""
    kind = os.path.splitext(path)[1].lower()
    if kind not in _KINDS:
        raise _Unusable(f"has an invalid extension (valid: {', '.join(_KINDS)})")
    try:
        with opened(path) as raw:
            yield from _read(path, kind, raw)
    except FileNotFoundError:
        raise _Unusable("not found") from None
    except (OSError, ValueError, csv.Error, RecursionError) as error:  # ValueError: also JSON and UTF-8 errors
        raise _Unusable(f"cannot be read ({error})") from None


def _read(path: str, kind: str, raw: IO[bytes]) -> Iterator[tuple[str, Any]]:
    if kind == ".parquet":
        yield from map(_named, _parquet(path, raw))
        return
    with io.TextIOWrapper(raw, encoding="utf-8-sig", newline="" if kind == ".csv" else None) as file:
        if kind == ".json":
            table = json.load(file)
            if not isinstance(table, (dict, list)):
                raise _Unusable("contains neither a JSON object nor an array")
            yield from table.items() if isinstance(table, dict) else map(_named, table)
        elif kind == ".jsonl":
            yield from (_named(json.loads(line)) for line in file if line.strip())
        else:
            yield from map(_named, csv.DictReader(file))


class _Unusable(Exception):
    """Why a file cannot be used."""


def _named(row: dict[str, Any]) -> tuple[str, Any]:
    for column in _FILE_COLUMNS:
        if isinstance(row, dict) and isinstance(row.get(column), str) and row[column].strip():
            return row[column], row
    raise _Unusable(f"has a row without {' or '.join(map(repr, _FILE_COLUMNS))}")


def _parquet(path: str, raw: IO[bytes]) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet
    except ImportError:
        found = f"{path} needs pyarrow, which is not installed"
        raise user_error("data.metadata", found, "pip install 'loralab[parquet]'") from None
    for batch in pyarrow.parquet.ParquetFile(raw).iter_batches():
        yield from batch.to_pylist()


def _caption(row: Any, edge: str) -> str | None:
    """The caption of an entry, or None; its tags are appended, as in sd-scripts, to each line if there are several.

    edge: the text between tags.
    """
    if not isinstance(row, dict):
        return _text(row, edge) or None
    lines = next(filter(None, (_text(row.get(column), edge) for column in _TEXT_COLUMNS)), "").split("\n")
    tags = _text(row.get("tags"), edge).replace("\n", edge)
    return "\n".join(edge.join(filter(None, (line, tags))) for line in lines) or None


def _text(value: Any, edge: str) -> str:
    """A cell as text: a list is one of tags, and an empty cell of a table is empty text."""
    if value is None or value != value:  # pandas writes NaN
        return ""
    if isinstance(value, list):
        return edge.join(filter(None, (_text(part, edge) for part in value)))
    if isinstance(value, dict):
        raise _Unusable("has a caption that is an object instead of text")
    return as_lines(str(value).encode("utf8", "replace").decode())
