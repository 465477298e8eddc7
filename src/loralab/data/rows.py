"""The columns of an index: a million images without a million objects."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from loralab.data.texts import Texts

Origin = Literal["file", "metadata", "folder", "none"]
"""Where a caption comes from: its own file, a metadata file, the folder's name, nowhere."""
ORIGINS: tuple[Origin, ...] = ("file", "metadata", "folder", "none")

_DIGEST = 16
"""Bytes of a content hash."""


@dataclass
class Rows:
    """Of each image its path, caption, mask, content hash (zeros where unknown), and numbers."""

    paths: Texts = field(default_factory=Texts)
    captions: Texts = field(default_factory=Texts)
    masks: Texts = field(default_factory=Texts)
    digests: bytearray = field(default_factory=bytearray)
    width: array = field(default_factory=lambda: array("i"))
    height: array = field(default_factory=lambda: array("i"))
    repeats: array = field(default_factory=lambda: array("i"))
    source: array = field(default_factory=lambda: array("H"))
    origin: array = field(default_factory=lambda: array("B"))
    kind: array = field(default_factory=lambda: array("B"))
    turned: array = field(default_factory=lambda: array("B"))
    kinds: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def extend(
        self,
        paths: Sequence[bytes],
        captions: Sequence[bytes],
        origins: Sequence[int],
        masks: Sequence[bytes],
        headers: np.ndarray,
        digests: np.ndarray,
        repeats: int,
        source: int,
    ) -> None:
        """Adds images of one directory; headers, digests: as the catalog gives them."""
        self.paths.extend(paths)
        self.captions.extend(captions)
        self.masks.extend(masks)
        self.digests += digests.tobytes()
        self.origin.extend(origins)
        self.repeats.extend([repeats] * len(paths))
        self.source.extend([source] * len(paths))
        self.width.frombytes(headers["width"].tobytes())
        self.height.frombytes(headers["height"].tobytes())
        self.turned.frombytes(headers["turned"].tobytes())
        names, kinds = np.unique(headers["kind"], return_inverse=True)
        self.kind.frombytes(np.array([self._number(name.decode()) for name in names], np.uint8)[kinds].tobytes())

    def digest(self, row: int) -> str:
        """The content hash of an image in hex; empty where it is unknown."""
        found = self.digests[row * _DIGEST : (row + 1) * _DIGEST]
        return found.hex() if any(found) else ""

    def digest_array(self) -> np.ndarray:
        """A copy of the content hashes, (number of images, 16) uint8."""
        return np.array(self.digests, np.uint8).reshape(-1, _DIGEST)

    def _number(self, kind: str) -> int:
        if kind not in self.kinds:
            self.kinds.append(kind)
        return self.kinds.index(kind)
