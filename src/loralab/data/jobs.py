"""Which latents a training needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loralab.data.cache import Cache
from loralab.data.decoding import Job, View
from loralab.data.epoch.draws import Draws
from loralab.data.folders import Folder


@dataclass(frozen=True)
class Jobs(Sequence[Job]):
    """Every image of some draws at each of its sizes, with all views that are cached of it; made on access."""

    draws: Sequence[tuple[Draws, Sequence[Folder]]]
    """Draws, and the folders with the rules for their images, by Item.source."""
    cache: Cache

    def __len__(self) -> int:
        return sum(draws.rows for draws, _ in self.draws)

    def __getitem__(self, position: int) -> Job:  # type: ignore[override]  # no slices
        for draws, folders in self.draws:
            if position < draws.rows:
                return self._job(draws, folders, position)
            position -= draws.rows
        raise IndexError(position)

    def _job(self, draws: Draws, folders: Sequence[Folder], row: int) -> Job:
        item, bucket, resized = draws.entry(row)
        augment = folders[item.source].augment
        corners = self.cache.corners(item.digest, resized, bucket, augment.random_crop)
        flips = (False, True) if augment.flip else (False,)
        return Job(item.path, item.digest, bucket, resized, tuple(View(c, flip) for c in corners for flip in flips))
