"""The images of a training: their paths, sizes and captions.

Images in or below a sub-folder named `N_name` are repeated N times, and `name` is the caption of those without another.
Images elsewhere are used once. Nothing is decoded, and nothing is read twice: what is known about a file is
kept until its size or its time changes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy as np

from loralab.data.extensions import EXTENSIONS
from loralab.data.folders import Folder
from loralab.data.images import ImageError
from loralab.data.index.catalog import Catalog
from loralab.data.index.reader import Reader
from loralab.data.index.rows import ORIGINS, Origin, Rows
from loralab.data.index.walk import Skipped
from loralab.data.sources.mounts import absolute, is_folder, mount
from loralab.data.texts import Texts
from loralab.errors import Problem, UserError, user_error
from loralab.files import cache_folder, printable
from loralab.progress import progress
from loralab.schema.ranges import Count
from loralab.types import Item
from loralab.urls import is_url, plain

OnError = Literal["skip", "stop"]


class Index(Sequence[Item]):
    """All images, as columns: an Item is made on access. Ordered by folder, then by path."""

    def __init__(self, folders: Sequence[Folder], rows: Rows, skipped: list[Skipped], notes: list[str]) -> None:
        self.folders = tuple(folders)
        self.skipped = skipped
        """The files that are skipped, and why."""
        self.notes = notes
        """Other messages for the user."""
        self._rows = rows
        self._chosen = np.arange(len(rows), dtype=np.int32)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, position: int) -> Item:  # type: ignore[override]  # no slices
        row = int(self._chosen[position])
        rows, folder = self._rows, self.folders[self._rows.source[row]]
        return Item(
            path=rows.paths[row],
            width=rows.width[row],
            height=rows.height[row],
            caption=rows.captions[row],
            repeats=rows.repeats[row],
            weight=folder.weight,
            is_reg=folder.is_reg,
            source=rows.source[row],
            mask=rows.masks[row] or None,
            digest=rows.digest(row),
        )

    def captions(self) -> Iterator[tuple[str, int]]:
        """The caption and source of each image, without making Items."""
        return ((self._rows.captions[row], self._rows.source[row]) for row in self._chosen.tolist())

    @property
    def silent(self) -> int:
        """How many images have no caption."""
        return int((np.array(self._rows.origin)[self._chosen] == ORIGINS.index("none")).sum())

    @property
    def regularisation(self) -> int:
        """How many of the images are for regularisation."""
        sources = [source for source, folder in enumerate(self.folders) if folder.is_reg]
        return int(np.isin(np.array(self._rows.source)[self._chosen], sources).sum())

    @property
    def with_alpha(self) -> int:
        """How many images have an alpha channel or a transparent colour."""
        modes = np.array([kind.upper().endswith("A") for kind in self._rows.kinds], bool)
        return int(modes[np.array(self._rows.kind)[self._chosen]].sum())

    def origin(self, position: int) -> Origin:
        """Where the caption of an image comes from."""
        return ORIGINS[self._rows.origin[self._chosen[position]]]

    def kind(self, position: int) -> str:
        """Its format and mode, e.g. "JPEG CMYK"."""
        return self._rows.kinds[self._rows.kind[self._chosen[position]]]

    def turned(self, position: int) -> bool:
        """Whether its EXIF orientation rotates or mirrors it."""
        return bool(self._rows.turned[self._chosen[position]])

    def without(self, reasons: Mapping[int, str]) -> Index:
        """This index without some images; reasons: position → why."""
        left = copy(self)
        left._chosen = np.delete(self._chosen, list(reasons))
        left.skipped = self.skipped + [Skipped(self[position].path, reason) for position, reason in reasons.items()]
        return left

    def hashed(self, cache: str | None = None, on_error: OnError = "skip") -> Index:
        """This index with the content hash of every image and mask; only files that changed since the last time are
        read. Images that cannot be read (any more) are skipped. Raises a UserError if none is left."""
        rows, failed = self._rows, {}
        digests, mask_digests = bytearray(rows.digests), bytearray(rows.mask_digests)
        columns = [(rows.paths, digests, ""), (rows.masks, mask_digests, "cannot be used: its mask {} ")]
        todo = [(column, at) for column in columns for at in self._unhashed(*column[:2])]
        if not todo:
            return self
        paths = (paths[int(self._chosen[at])] for (paths, _, _), at in todo)
        with (
            progress("hashing images", len(todo), "images") as advance,
            Catalog(cache_folder(cache), advance) as catalog,
        ):
            for ((paths_of, known, words), at), digest in zip(todo, catalog.hash(paths), strict=True):
                row = int(self._chosen[at])
                if isinstance(digest, ImageError):
                    failed.setdefault(at, words.format(printable(paths_of[row])) + str(digest))
                else:
                    known[row * len(digest) : (row + 1) * len(digest)] = digest
        hashed = copy(self)
        hashed._rows = replace(rows, digests=digests, mask_digests=mask_digests)
        hashed = hashed.without(failed)
        _stop_at(hashed.skipped[len(self.skipped) :], on_error)
        for source in sorted(self._sources() - hashed._sources()):
            at = next(at for at in failed if self[at].source == source)
            found = f"none of its images can be read any more: {printable(self[at].path)} {failed[at]}"
            raise user_error(self.folders[source].setting, found, "check that the folder still exists")
        return hashed

    def _sources(self) -> set[int]:
        return set(np.array(self._rows.source)[self._chosen].tolist())

    def _unhashed(self, paths: Texts, digests: bytearray) -> list[int]:
        """Positions that have a file whose content hash is unknown."""
        hashes = np.frombuffer(digests, np.uint8).reshape(len(paths), -1)[self._chosen]
        return [at for at in np.flatnonzero(~hashes.any(axis=1)).tolist() if paths.raw(int(self._chosen[at]))]

    def digest(self) -> str:
        """A hash of all that determines what is trained on: contents and captions in their order, and the rules of the
        folders; but not names and paths, so that a dataset may be moved. The index must be hashed."""
        rows, chosen = self._rows, self._chosen
        digest = blake2b(digest_size=16)
        for column in (rows.digests, rows.mask_digests, rows.repeats, rows.source):
            digest.update(np.frombuffer(column, np.uint8).reshape(len(rows), -1)[chosen].tobytes())
        for row in chosen.tolist():
            caption = rows.captions.raw(row)
            digest.update(b"%d " % len(caption) + caption)
        rules = [(folder.weight, folder.is_reg, folder.captions, folder.augment) for folder in self.folders]
        digest.update(repr(rules).encode())
        return digest.hexdigest()


def scan(
    folders: Sequence[Folder],
    cache: str | None = None,
    on_error: OnError = "skip",
    *,
    min_size: Count | None = None,
    max_size: Count | None = None,
    downloads: float = 0,
) -> Index:
    """Finds the images of all folders.

    cache: the folder of the index database (see store.cache_folder). downloads: bytes of remote files that are kept in
    it. min_size, max_size: images whose shorter side is
    under the one or whose longer side is over the other are skipped, pixels. Raises a UserError if a folder is
    missing, contains no image, or, with on_error "stop", contains anything that cannot be used.
    """
    where = cache_folder(cache)
    rows = Rows()
    skipped: list[Skipped] = []
    notes: list[str] = []
    for folder in folders:
        mount(folder.path, folder.setting, where, downloads)
        for name, place in (("mask_folder", folder.mask_folder), ("metadata", folder.metadata)):
            if place:
                mount(place, folder.beside(name), where, downloads)
        _check_place(folder)
    keep_outside([folder.path for folder in folders], where, "data.cache_folder")
    with progress("reading images", None, "files") as advance, Catalog(where, advance) as catalog:
        for source, folder in enumerate(folders):
            before = len(rows), len(skipped), len(notes)
            reader = Reader(folder, source, catalog, rows, skipped, notes)
            reader.read((min_size or 0, max_size or sys.maxsize))
            if len(rows) == before[0]:
                raise _empty(folder, skipped[before[1] :], notes[before[2] :], reader.outside)
    _stop_at(skipped, on_error)
    return Index(folders, rows, skipped, notes)


def keep_outside(roots: Iterable[str], place: Path, setting: str) -> None:
    """Raises a UserError if a place that is written to is inside a folder of images; setting: where it was given."""
    real = os.path.realpath(place)  # resolves links and `..`
    for root in (os.path.expanduser(plain(root)) for root in roots if not is_url(plain(root))):
        if Path(real).is_relative_to(os.path.realpath(root)):
            raise user_error(setting, f"{place} is inside the image folder {root}", "choose a folder outside of it")


def _check_place(folder: Folder) -> None:
    root = absolute(folder.path)
    if not is_folder(root):
        found = "is not a folder" if os.path.exists(root) else "not found"
        raise user_error(folder.setting, f"'{root}' {found}", "give the folder of the images")


def _empty(folder: Folder, skipped: list[Skipped], notes: list[str], outside: int) -> UserError:
    if outside:
        found = f"all {outside} images in {folder.path} are smaller or larger than allowed"
        return user_error(folder.setting, found, "change data.min_image_size and data.max_image_size")
    kinds = " ".join(sorted(extension[1:] for extension in EXTENSIONS))
    found = f"{folder.path} contains no usable image"
    if skipped:
        found += f" ({len(skipped)} skipped, e.g. {printable(skipped[0].path)} {skipped[0].reason})"
    found += "".join("; " + note.partition(": ")[2] for note in notes)
    return user_error(folder.setting, found, f"put images ({kinds}) into it or into sub-folders named N_name")


def _stop_at(skipped: list[Skipped], on_error: OnError) -> None:
    """Raises a UserError for skipped files if on_error is "stop"."""
    if on_error == "stop" and skipped:
        remedy = "repair or remove it, or set data.on_error=skip to skip such files"
        raise UserError(*(Problem(printable(path), reason, remedy) for path, reason in skipped[:20]))
