"""The embeddings of images and texts, kept in the cache folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cached_property
from hashlib import blake2b
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from loralab import signals
from loralab.data import images
from loralab.data.storage.records import OnDisk
from loralab.files import cache_folder
from loralab.progress import progress
from loralab.scorers import scorer as scorers

FOLDER = "embeddings-1"
"""In the cache folder; the number changes with what a scorer makes of an image or a text."""
TOGETHER = 8
"""So many are embedded at once."""
_NAME = "embedding"


class Embeddings:
    """Embeds with a scorer, which is loaded for what has not been embedded before.

    A file is known again by its path, size and time. folder: the cache folder; null: as `data.cache_folder`.
    """

    def __init__(self, scorer: str, folder: str | None, device: torch.device) -> None:
        self.scorer, self.device = scorer, device
        self._store = OnDisk(cache_folder(folder) / FOLDER)
        self._store.verify()
        self._id = [_stamp(file) for file in scorers.files(scorer)]

    def images(self, files: Sequence[Path]) -> dict[Path, Tensor]:
        """(D,) of each image that can be read."""
        keys = {file: self._key(_stamp(file)) for file in dict.fromkeys(files) if file.exists()}
        self._embed({key: file for file, key in keys.items()}, self._of_images, "images")
        missing = {*self._store.missing(keys.values())}
        return {file: self._store.get(key)[_NAME] for file, key in keys.items() if key not in missing}

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(N, D)"""
        keys = [self._key(text) for text in texts]
        self._embed(dict(zip(keys, texts, strict=True)), self._of_texts, "texts")
        return torch.stack([self._store.get(key)[_NAME] for key in keys])

    def _embed(self, things: dict[bytes, Path] | dict[bytes, str], embed: Callable, unit: str) -> None:
        """Embeds what is not kept yet; embed: gives (D,) by position, of those that can be read."""
        left = iter(missing := self._store.missing(things))
        with progress("scoring", len(missing), unit) as advance:
            while keys := [*islice(left, TOGETHER)]:
                signals.check()
                found = embed([things[key] for key in keys])
                self._store.put({keys[i]: {_NAME: vector.clone()} for i, vector in found.items()})
                advance(len(keys))

    def _of_texts(self, texts: Sequence[str]) -> dict[int, Tensor]:
        return dict(enumerate(self._model.texts(texts)))

    def _of_images(self, files: Sequence[Path]) -> dict[int, Tensor]:
        pixels = {}
        for i, file in enumerate(files):
            try:
                pixels[i] = images.read(file)[0]
            except images.ImageError:
                continue
        return dict(zip(pixels, self._model.images([*pixels.values()]), strict=True)) if pixels else {}

    @cached_property
    def _model(self) -> scorers.Scorer:
        return scorers.load(self.scorer, self.device)

    def _key(self, thing: object) -> bytes:
        return blake2b(repr((self._id, thing)).encode("utf8", "surrogateescape"), digest_size=16).digest()


def _stamp(file: Path) -> tuple[str, int, int]:
    status = file.stat()  # no ctime: a link to the file, as a report makes, changes it
    return os.path.abspath(file), status.st_size, status.st_mtime_ns
