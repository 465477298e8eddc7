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

UNKNOWN = bytes(16)
"""Instead of a content hash that is not known."""


@dataclass
class Rows:
    """Path, caption, mask, content hashes (zeros where unknown), and numbers of each image."""

    paths: Texts = field(default_factory=Texts)
    captions: Texts = field(default_factory=Texts)
    masks: Texts = field(default_factory=Texts)
    digests: bytearray = field(default_factory=bytearray)
    mask_digests: bytearray = field(default_factory=bytearray)
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
        masks: Sequence[tuple[bytes, bytes]],
        headers: np.ndarray,
        digests: np.ndarray,
        repeats: int,
        source: int,
    ) -> None:
        """Adds images of one directory; headers, digests: as the catalog gives them; masks: path and digest."""
        self.paths.extend(paths)
        self.captions.extend(captions)
        self.masks.extend(path for path, _ in masks)
        self.digests += digests.tobytes()
        self.mask_digests += b"".join(digest for _, digest in masks)
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
        found = self.digests[row * len(UNKNOWN) : (row + 1) * len(UNKNOWN)]
        return found.hex() if any(found) else ""

    def _number(self, kind: str) -> int:
        if kind not in self.kinds:
            self.kinds.append(kind)
        return self.kinds.index(kind)
