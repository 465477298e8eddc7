"""The images of a training: which there are, how large they are, what is said of them.

A folder's sub-folders named `N_name` are repeated N times, and `name` is the caption of their images without another;
what lies deeper belongs to them. Images elsewhere count once. Nothing is decoded, and nothing is read twice: what
is known of a file is kept until its size or its time changes.
"""

from __future__ import annotations

import os
import re
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from loralab.data.augment import Augment
from loralab.data.captions import Captions
from loralab.data.catalog import Catalog
from loralab.data.images import EXTENSIONS, ImageError
from loralab.data.metadata import NAMES, Metadata
from loralab.data.store import cache_folder
from loralab.data.texts import Texts
from loralab.data.walk import Directory, Skipped, walk
from loralab.errors import Problem, UserError, user_error
from loralab.files import printable
from loralab.progress import progress
from loralab.types import Item
from loralab.values import AtLeastOne, Count, NonNegative

OnError = Literal["skip", "stop"]


@dataclass(frozen=True)
class Folder:
    """One folder of images and what holds for them.

    path: of the folder. repeats, class_tokens: of images outside of its `N_name` sub-folders. weight: of their loss.
    captions, augment: its rules. mask_folder: loss masks, named like the images.
    metadata: a file with the captions; null: metadata.jsonl, .csv or .parquet in the folder, where there is one.
    is_reg: regularisation (prior-preservation) images. setting: where the path was given, for messages.
    """

    path: str
    repeats: AtLeastOne = 1
    class_tokens: str = ""
    weight: NonNegative = 1.0
    captions: Captions = field(default_factory=Captions)
    augment: Augment = field(default_factory=Augment)
    mask_folder: str | None = None
    metadata: str | None = None
    is_reg: bool = False
    setting: str = "data.folder"

    def beside(self, name: str) -> str:
        """Where another setting of this folder is given."""
        return f"{self.setting.rpartition('.')[0]}.{name}"

    @property
    def extension(self) -> str:
        return self.captions.suffix_of_files


Origin = Literal["file", "metadata", "folder", "none"]
"""Where a caption comes from: its own file, a metadata file, the folder's name, nowhere."""
ORIGINS: tuple[Origin, ...] = ("file", "metadata", "folder", "none")


_Found = tuple[bytes, str, Origin, str, int, int, str, bool, "bytes | None"]
"""Path, caption and its origin, mask, width, height, kind, turned, digest."""


class Index(Sequence[Item]):
    """All images, as columns: an Item is made when it is asked for. Ordered by folder, then by path."""

    def __init__(self, folders: Sequence[Folder], rows: _Rows, skipped: list[Skipped], notes: list[str]) -> None:
        self.folders = tuple(folders)
        self.skipped = skipped
        """What is left out, and why."""
        self.notes = notes
        """What else a user should hear."""
        self._rows = rows
        self._chosen = np.arange(len(rows.paths), dtype=np.int32)

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
            digest=rows.digests.raw(row).hex(),
        )

    def captions(self) -> Iterator[tuple[str, int]]:
        """Of each image its caption and its source, without making Items."""
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

    def origin(self, position: int) -> Origin:
        """Where the caption of an image comes from."""
        return ORIGINS[self._rows.origin[self._chosen[position]]]

    def kind(self, position: int) -> str:
        """Its format and mode, e.g. "JPEG CMYK"."""
        return self._rows.kinds[self._rows.kind[self._chosen[position]]]

    def turned(self, position: int) -> bool:
        """Whether its EXIF orientation turns or mirrors it."""
        return bool(self._rows.turned[self._chosen[position]])

    def without(self, reasons: Mapping[int, str]) -> Index:
        """This index less some images, position → why."""
        left = copy(self)
        left._chosen = np.delete(self._chosen, list(reasons))
        left.skipped = self.skipped + [Skipped(self[position].path, reason) for position, reason in reasons.items()]
        return left

    def hashed(self, cache: str | None = None, on_error: OnError = "skip") -> Index:
        """This index with the content hash of every image; only files that changed since the last time are read."""
        missing = [position for position in range(len(self)) if not self[position].digest]
        if not missing:
            return self
        made: dict[int, bytes] = {}
        failed: dict[int, str] = {}
        with (
            progress("hashing images", len(missing), "images") as advance,
            Catalog(cache_folder(cache), advance) as catalog,
        ):
            for position, digest in zip(missing, catalog.digests(self[m].path for m in missing), strict=True):
                if isinstance(digest, ImageError):
                    failed[position] = str(digest)
                else:
                    made[int(self._chosen[position])] = digest
        hashed = copy(self)
        old = self._rows.digests
        hashed._rows = replace(self._rows, digests=Texts(made.get(row, old.raw(row)) for row in range(len(old))))
        hashed = hashed.without(failed)
        _stop_at(hashed.skipped[len(self.skipped) :], on_error)
        return hashed


@dataclass
class _Rows:
    """The columns of an index."""

    paths: Texts = field(default_factory=Texts)
    captions: Texts = field(default_factory=Texts)
    masks: Texts = field(default_factory=Texts)
    digests: Texts = field(default_factory=Texts)
    width: array = field(default_factory=lambda: array("i"))
    height: array = field(default_factory=lambda: array("i"))
    repeats: array = field(default_factory=lambda: array("i"))
    source: array = field(default_factory=lambda: array("H"))
    origin: array = field(default_factory=lambda: array("B"))
    kind: array = field(default_factory=lambda: array("B"))
    turned: array = field(default_factory=lambda: array("B"))
    kinds: list[str] = field(default_factory=list)

    def extend(self, found: Sequence[_Found], repeats: int, source: int) -> None:
        """Adds images of one directory."""
        if not found:
            return
        paths, captions, origins, masks, widths, heights, kinds, turned, digests = zip(*found, strict=True)
        self.kinds += sorted(set(kinds) - set(self.kinds))
        self.paths.extend(paths)
        self.captions.extend(captions)
        self.masks.extend(masks)
        self.digests.extend(digest or b"" for digest in digests)
        self.width.extend(widths)
        self.height.extend(heights)
        self.repeats.extend([repeats] * len(found))
        self.source.extend([source] * len(found))
        self.origin.extend(map(ORIGINS.index, origins))
        self.kind.extend(map(self.kinds.index, kinds))
        self.turned.extend(turned)


def scan(
    folders: Sequence[Folder],
    cache: str | None = None,
    on_error: OnError = "skip",
    *,
    min_size: Count | None = None,
    max_size: Count | None = None,
) -> Index:
    """Finds the images of all folders.

    cache: the folder of the index database (see store.cache_folder). min_size, max_size: images whose shorter side is
    under the one or whose longer side is over the other are left out, pixels. Raises a UserError where a folder is
    missing, holds no image, or, with on_error "stop", holds anything that cannot be used.
    """
    where = cache_folder(cache)
    rows = _Rows()
    skipped: list[Skipped] = []
    notes: list[str] = []
    for folder in folders:
        _check_place(folder)
    keep_outside([folder.path for folder in folders], where, "data.cache_folder")
    with progress("reading images", None, "files") as advance, Catalog(where, advance) as catalog:
        for source, folder in enumerate(folders):
            before = len(rows.paths), len(skipped)
            reader = _Reader(folder, source, catalog, rows, skipped, notes)
            reader.read((min_size or 0, max_size or sys.maxsize))
            if len(rows.paths) == before[0]:
                raise _empty(folder, skipped[before[1] :])
    _stop_at(skipped, on_error)
    return Index(folders, rows, skipped, notes)


class _Reader:
    """Reads one folder into the columns."""

    def __init__(
        self, folder: Folder, source: int, catalog: Catalog, rows: _Rows, skipped: list[Skipped], notes: list[str]
    ) -> None:
        self.folder, self.source, self.catalog = folder, source, catalog
        self.rows, self.skipped, self.notes = rows, skipped, notes
        self.root = os.path.abspath(os.path.expanduser(folder.path))
        self.metadata = _metadata(folder, Path(self.root))
        self.masks = _masks(folder, skipped)
        self.outside = self.unmasked = self.stray = 0

    def read(self, limits: tuple[int, int]) -> None:
        """limits: the shortest and the longest side an image may have, pixels."""
        omit = {os.path.abspath(os.path.expanduser(self.folder.mask_folder))} if self.folder.mask_folder else set()
        for directory in walk(self.root, self.folder.extension, frozenset(omit), self.skipped):
            if directory.images:
                self._read(directory, limits)
        if self.metadata:
            self.skipped.extend(self.metadata.unused())
        if self.outside:
            self._note(f"images smaller or larger than data.min_image_size and max_image_size allow: {self.outside}")
        if self.unmasked:
            self._note(f"images without a mask in {self.folder.mask_folder}, which count everywhere: {self.unmasked}")
        if self.stray:
            self._note(f"caption files of no image: {self.stray}")

    def _read(self, directory: Directory, limits: tuple[int, int]) -> None:
        repeats, tokens = self._subset(directory.parts)
        if repeats == 0:
            self._note(f"images of {os.fsdecode(directory.path)}, repeated 0 times: {len(directory.images)}")
            return
        ending = len(os.fsencode(self.folder.extension))
        texts = {name[:-ending]: text for name, text in self.catalog.captions(directory).items()}
        self.stray += len(texts.keys() - {name.rpartition(b".")[0] for name, _, _ in directory.images})
        prefix = os.path.join(directory.path, b"")
        found: list[_Found] = []
        for (name, _, _), known in zip(directory.images, self.catalog.headers(directory), strict=True):
            path, stem = prefix + name, name.rpartition(b".")[0]
            caption, origin = self._caption(path, texts.get(stem), tokens)
            if isinstance(known, ImageError):
                self.skipped.append(Skipped(os.fsdecode(path), str(known)))
            elif isinstance(caption, UserError):
                problem = caption.problems[0]
                words = f"its caption file {problem.found}; {problem.remedy}"
                self.skipped.append(Skipped(os.fsdecode(path), words))
            elif not limits[0] <= min(known.width, known.height) or not max(known.width, known.height) <= limits[1]:
                self.outside += 1
            else:
                mask = self._mask((*directory.parts, stem)) if self.folder.mask_folder else ""
                found.append((path, caption, origin, mask, *known))  # type: ignore[arg-type]
        self.rows.extend(found, repeats, self.source)

    def _subset(self, parts: tuple[bytes, ...]) -> tuple[int, str]:
        """Repeats and class tokens of a directory: those of the nearest folder called `N_name`."""
        for part in map(os.fsdecode, reversed(parts)):
            if found := re.fullmatch(r"(\d+)_(.*)", part, re.DOTALL):
                return int(found[1]), printable(found[2])  # captions are text
        return self.folder.repeats, self.folder.class_tokens

    def _caption(self, path: bytes, text: str | UserError | None, tokens: str) -> tuple[str | UserError, Origin]:
        if self.metadata and (said := self.metadata.caption(os.fsdecode(path))) is not None:
            return said, "metadata"
        if text is not None:
            return text, "file"
        return tokens, "folder" if tokens else "none"

    def _mask(self, parts: tuple[bytes, ...]) -> str:
        mask = self.masks.get(parts, "")
        self.unmasked += not mask
        return mask

    def _note(self, text: str) -> None:
        self.notes.append(printable(f"{self.folder.setting}: {text}"))


def _metadata(folder: Folder, root: Path) -> Metadata | None:
    if folder.metadata:
        return Metadata(Path(folder.metadata).expanduser().absolute(), root, folder.beside("metadata"))
    return next((Metadata(root / name, root, folder.setting) for name in NAMES if (root / name).is_file()), None)


def _masks(folder: Folder, skipped: list[Skipped]) -> dict[tuple[bytes, ...], str]:
    """The mask folder's images by their path below it, without extension."""
    if not folder.mask_folder:
        return {}
    root = os.path.abspath(os.path.expanduser(folder.mask_folder))
    if not os.path.isdir(root):
        remedy = "give the folder that holds the masks, or null"
        raise user_error(folder.beside("mask_folder"), f"{root} is no folder", remedy)
    return {
        (*directory.parts, name.rpartition(b".")[0]): os.fsdecode(os.path.join(directory.path, name))
        for directory in walk(root, folder.extension, frozenset(), skipped)
        for name, _, _ in directory.images
    }


def keep_outside(roots: Iterable[str], place: Path, setting: str) -> None:
    """Raises a UserError where a place that is written to lies in a folder of images; setting: where it was given."""
    for root in map(os.path.abspath, map(os.path.expanduser, roots)):
        if place.is_relative_to(root):
            raise user_error(setting, f"{place} lies in the images' folder {root}", "choose one outside of it")


def _check_place(folder: Folder) -> None:
    root = Path(os.path.abspath(os.path.expanduser(folder.path)))
    if not root.is_dir():
        found = "is not a folder" if root.exists() else "is not there"
        raise user_error(folder.setting, f"{root} {found}", "give the folder that holds the images")


def _empty(folder: Folder, skipped: list[Skipped]) -> UserError:
    kinds = " ".join(sorted(extension[1:] for extension in EXTENSIONS))
    found = f"{folder.path} holds no image that can be used"
    if skipped:
        found += f" ({len(skipped)} cannot, e.g. {printable(skipped[0].path)} {skipped[0].reason})"
    return user_error(folder.setting, found, f"put images ({kinds}) in it or in sub-folders called N_name")


def _stop_at(skipped: list[Skipped], on_error: OnError) -> None:
    """Ends the run at what would be skipped, where that is wished."""
    if on_error == "stop" and skipped:
        remedy = "repair or remove it, or leave such files out with data.on_error=skip"
        raise UserError(*(Problem(printable(path), reason, remedy) for path, reason in skipped[:20]))
