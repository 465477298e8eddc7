"""Reads one folder into the columns of an index."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Set
from typing import Any

import numpy as np

from loralab.data.folders import Folder
from loralab.data.images import ImageError
from loralab.data.index.caption_table import CaptionTable
from loralab.data.index.catalog import Catalog
from loralab.data.index.rows import ORIGINS, UNKNOWN, Rows
from loralab.data.index.unread import Unread
from loralab.data.index.walk import Directory, Skipped, walk
from loralab.data.sources.mounts import absolute, is_folder
from loralab.errors import UserError, user_error
from loralab.files import printable

MOST_REPEATS = 100_000
_STRETCH = 0.02
"""Relative difference between the aspect ratios of an image and its mask above which there is a note."""
_FILE, _METADATA, _FOLDER, _NONE = range(len(ORIGINS))


class Reader:
    """Reads one folder's images, captions and masks; adds to `skipped` and `notes`."""

    def __init__(
        self, folder: Folder, source: int, catalog: Catalog, rows: Rows, skipped: list[Skipped], notes: list[str]
    ) -> None:
        self.folder, self.source, self.catalog = folder, source, catalog
        self.rows, self.skipped, self.notes = rows, skipped, notes
        self.root = absolute(folder.path)
        self.metadata: dict[tuple[bytes, ...], CaptionTable] = {}
        if folder.metadata:
            path, setting = absolute(folder.metadata), folder.beside("metadata")
            self.metadata[()] = CaptionTable(path, self.root, setting, folder.captions.separator)
        self.masks = dict(self._find_masks()) if folder.mask_folder else {}
        self.unread = Unread(folder)
        self.outside = self.unmasked = self.stretched = self.masked = 0
        self.like_masks: Counter[str] = Counter()
        """Images that seem to be loss masks, by what is in their names."""

    def read(self, limits: tuple[int, int]) -> None:
        """limits: the shortest and the longest side an image may have, pixels."""
        omit = {absolute(self.folder.mask_folder)} if self.folder.mask_folder else set()
        for directory in walk(self.root, self.folder.extension, frozenset(omit), self.skipped):
            if directory.tables and not self.folder.metadata:
                self._find_metadata(directory)
            self.unread.look(directory)
            if directory.images.names:
                self._read(directory, limits)
        for metadata in self.metadata.values():
            reason = f"is listed in {os.path.basename(metadata.path)} but was not found"
            self.skipped.extend(Skipped(path, reason) for path in metadata.unused())
            if metadata.repeated:
                self._note(f"rows of {metadata.path} replaced by later ones on the same image: {metadata.repeated}")
        if self.outside:
            self._note(f"images skipped because of data.min_image_size or data.max_image_size: {self.outside}")
        self._note_masks()
        for note in self.unread.notes():
            self._note(note)

    def _note_masks(self) -> None:
        """Adds notes on masks that have no effect, or an unexpected one."""
        place = self.folder.mask_folder
        if self.masks and not self.masked:
            name = printable(os.fsdecode(next(iter(self.masks))[-1]))
            found = f"masks in {place} have no effect, as none has the path and name of an image"
            self._note(f"{found}: {len(self.masks)}, for example {name}")
        elif place and self.unmasked:
            self._note(f"images without a mask in {place}, whose loss is not masked: {self.unmasked}")
        if self.masked and (spare := len(self.masks) - self.masked) > 0:
            self._note(f"masks in {place} without an image: {spare}")
        if self.stretched:
            self._note(f"masks stretched, as their aspect ratio is not that of the image: {self.stretched}")
        for name, count in self.like_masks.items():
            words = f"images trained on that seem to be masks ({name}): {count}"
            self._note(f"{words}; if they are masks, set {self.folder.beside('mask_folder')} to their folder")

    def _read(self, directory: Directory, limits: tuple[int, int]) -> None:
        names = directory.images.names
        repeats, tokens = self._subset(directory.parts)
        prefix, stems = os.path.join(directory.path, b""), [name.rpartition(b".")[0] for name in names]
        captions, origins = self._captions(directory, stems, tokens.encode())
        if repeats == 0:
            self._note(f"images of {os.fsdecode(directory.path)} skipped, as they are repeated 0 times: {len(names)}")
            return
        if directory.parts and directory.parts[-1].isdigit():
            number = directory.parts[-1].decode()
            self._note(f"the folder name {number} sets no repeats; rename it to {number}_NAME to repeat its images")
        self.like_masks.update(_like_masks(directory.parts, stems))
        headers, bad = self.catalog.headers(directory)
        masks = self._masks_of(directory, stems, headers, bad)
        for position, caption in enumerate(captions):
            if position in bad:
                self.skipped.append(Skipped(os.fsdecode(prefix + names[position]), str(bad[position])))
            elif isinstance(caption, UserError):
                bad[position] = caption
                words = f"its caption file {caption.problems[0].found}; {caption.problems[0].remedy}"
                self.skipped.append(Skipped(os.fsdecode(prefix + names[position]), words))
        short, long = (choose(headers["width"], headers["height"]) for choose in (np.minimum, np.maximum))
        fits, usable = (short >= limits[0]) & (long <= limits[1]), np.ones(len(names), bool)
        usable[list(bad)] = False
        self.outside += int((usable & ~fits).sum())
        chosen = np.flatnonzero(usable & fits)
        kept = chosen.tolist()
        self.rows.extend(
            paths=[prefix + names[position] for position in kept],
            captions=[captions[position] for position in kept],
            origins=[origins[position] for position in kept],
            masks=[masks[position] for position in kept],
            headers=headers[chosen],
            digests=self.catalog.digests(directory)[chosen],
            repeats=repeats,
            source=self.source,
        )

    def _subset(self, parts: tuple[bytes, ...]) -> tuple[int, str]:
        """Repeats and class tokens of a directory: those of the nearest folder named `N_name`."""
        repeats, tokens, setting = self.folder.repeats, self.folder.class_tokens, self.folder.beside("repeats")
        for part in map(os.fsdecode, reversed(parts)):
            if found := re.fullmatch(r"\s*(\d+)_(.*)", part, re.DOTALL):
                repeats, tokens, setting = int(found[1]), printable(found[2]), self.folder.setting  # captions are text
                break
        if repeats > MOST_REPEATS:
            found = f"images are repeated {repeats} times in {printable(os.fsdecode(b'/'.join(parts)) or self.root)}"
            raise user_error(setting, found, f"at most {MOST_REPEATS}; train for more epochs instead")
        return repeats, tokens

    def _captions(self, directory: Directory, stems: list[bytes], tokens: bytes) -> tuple[list, list[int]]:
        """The caption of each image, or what is wrong with it, and its origin."""
        ending = len(os.fsencode(self.folder.extension))
        texts, errors = self.catalog.captions(directory)
        by_stem = {name[:-ending]: text for name, text in zip(directory.texts.names, texts.tolist(), strict=True)}
        by_stem |= {directory.texts.names[position][:-ending]: error for position, error in errors.items()}
        by_stem |= self._of_samples(directory, set(stems) - by_stem.keys())
        captions = [by_stem.get(stem, tokens) for stem in stems]
        origins = [_FILE if stem in by_stem else _FOLDER if tokens else _NONE for stem in stems]
        for metadata, below in self._metadata(directory.parts):
            for position, name in enumerate(directory.images.names):
                if (said := metadata.caption(os.fsdecode(b"/".join((*below, name))))) is not None:
                    captions[position], origins[position] = said.encode(), _METADATA
        return captions, origins

    def _of_samples(self, directory: Directory, wanted: Set[bytes]) -> dict[bytes, Any]:
        """The captions of those images that a JSON file of their own has, or what is wrong with it."""
        names = [name.rpartition(b".")[0] for name in directory.samples.names]
        if not names:
            return {}
        files = directory.samples.some([position for position, name in enumerate(names) if name in wanted])
        texts, errors = self.catalog.captions_of_samples(directory, files)
        found = dict(enumerate(texts.tolist())) | errors
        return {files.names[position].rpartition(b".")[0]: text for position, text in found.items() if text}

    def _find_metadata(self, directory: Directory) -> None:
        place, (name, *others) = os.fsdecode(directory.path), directory.tables
        path, separator = os.path.join(place, name), self.folder.captions.separator
        self.metadata[directory.parts] = CaptionTable(path, place, self.folder.setting, separator)
        if others:
            self._note(f"{path} is used; {' and '.join(others)} beside it ignored")

    def _metadata(self, parts: tuple[bytes, ...]) -> Iterator[tuple[CaptionTable, tuple[bytes, ...]]]:
        """The metadata files that apply to a directory, the nearest last, and its path below their folders."""
        for depth in range(len(parts) + 1):
            if parts[:depth] in self.metadata:
                yield self.metadata[parts[:depth]], parts[depth:]

    def _find_masks(self) -> Iterator[tuple[tuple[bytes, ...], tuple[bytes, bytes, int, int] | str]]:
        """The masks by their path below the mask folder, without extension: path, digest and size, or what is wrong."""
        root = absolute(self.folder.mask_folder or "")
        if not is_folder(root):
            found = "is not a folder" if os.path.exists(root) else "not found"
            remedy = "give the folder of the masks, or null"
            raise user_error(self.folder.beside("mask_folder"), f"'{root}' {found}", remedy)
        for directory in walk(root, self.folder.extension, frozenset(), self.skipped):
            headers, bad = self.catalog.headers(directory)
            digests = self.catalog.digests(directory)
            for position, name in enumerate(directory.images.names):
                path, header = os.path.join(directory.path, name), headers[position]
                digest = digests[position].tobytes()
                words = f"cannot be used: its mask {printable(os.fsdecode(path))} {bad.get(position)}"
                found = words if position in bad else (path, digest, int(header["width"]), int(header["height"]))
                yield (*directory.parts, name.rpartition(b".")[0]), found

    def _masks_of(
        self, directory: Directory, stems: list[bytes], headers: np.ndarray, bad: dict[int, Exception]
    ) -> list[tuple[bytes, bytes]]:
        """Path and digest of the masks of a directory's images, empty if there is none; errors are added to `bad`."""
        found = [(b"", UNKNOWN)] * len(stems)
        for position, stem in enumerate(stems) if self.folder.mask_folder else ():
            mask = self.masks.get((*directory.parts, stem))
            self.unmasked += mask is None
            self.masked += mask is not None
            if isinstance(mask, str):
                bad.setdefault(position, ImageError(mask))
            elif mask is not None and position not in bad:
                path, digest, width, height = mask
                found[position] = path, digest
                across, down = width * int(headers[position]["height"]), height * int(headers[position]["width"])
                self.stretched += abs(across - down) > _STRETCH * down
        return found

    def _note(self, text: str) -> None:
        self.notes.append(printable(f"{self.folder.setting}: {text}"))


def _like_masks(parts: tuple[bytes, ...], stems: list[bytes]) -> Iterator[str]:
    """For each image whose name looks like that of a loss mask: the part of the name that does."""
    if parts and re.fullmatch(rb"_?masks?", parts[-1].lower()):
        yield from [f"in {printable(os.fsdecode(parts[-1]))}"] * len(stems)
        return
    known = set(stems)
    for stem in stems:
        found = re.fullmatch(rb"(.+)([-_.]mask(?:label)?)", stem, re.DOTALL)
        if found and found[1] in known:
            yield f"*{os.fsdecode(found[2])}"
