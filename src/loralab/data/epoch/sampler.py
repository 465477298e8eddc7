"""Batches of one bucket, in an order determined by the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from loralab.data.epoch.draws import Draws
from loralab.rng import derive
from loralab.types import Draw, Place


class BucketSampler:
    """A batch sampler: each epoch's draws shuffled, cut into batches of one group, and the batches shuffled.

    On several devices the batches are `world` times as large and each rank takes its part, so that the ranks together
    see what one device with that batch size would; every rank gets the same number of batches. If a part is smaller
    than the others, its samples' shares compensate for it; if it would be empty, it has one sample of share 0.

    parts: each batch is given in so many parts, one after the other, with shares in the same way.
    accumulate: batches, or parts of them, per optimizer step. full_only: skips batches that are not full (other samples
    each epoch).
    """

    def __init__(
        self,
        draws: Draws,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        parts: int = 1,
        accumulate: int = 1,
        full_only: bool = False,
    ) -> None:
        assert 0 <= rank < world, (rank, world)
        self.parts = parts
        self.draws, self.seed, self.rank, self.world, self.accumulate = draws, seed, rank, world, accumulate
        self.epoch = 0
        self._resumed = (0, 0)
        self.counts = np.bincount(draws.group_of, minlength=len(draws.groups))
        """(number of groups,) draws of each group in an epoch."""
        self._start, self._stop = self._cuts(full_only)

    def _cuts(self, full_only: bool) -> tuple[np.ndarray, np.ndarray]:
        """Where each batch starts and stops in the list of draws sorted by group."""
        sizes = [self.draws.batch(group.bucket) * self.world for group in self.draws.groups]
        ends = np.cumsum(self.counts)
        starts, stops = [], []
        for end, count, size in zip(ends, self.counts, sizes, strict=True):
            first = np.arange(end - count, end, size)
            last = np.minimum(first + size, end)
            whole = last - first == size if full_only else slice(None)
            starts.append(first[whole])
            stops.append(last[whole])
        return np.concatenate([np.zeros(0, int), *starts]), np.concatenate([np.zeros(0, int), *stops])

    def __len__(self) -> int:
        """Batches, or their parts, in an epoch, for each rank."""
        return len(self._start) * self.parts

    @property
    def left_out(self) -> int:
        """Draws of each epoch that are in no batch."""
        return len(self.draws) - int((self._stop - self._start).sum())

    @property
    def sampler(self) -> BucketSampler:
        """Lightning calls `batch_sampler.sampler.set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def resume(self, epoch: int, position: int) -> None:
        """Makes that epoch start after `position` batches; its length stays that of the whole epoch."""
        self._resumed = (epoch, position)
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Place]]:
        epoch = self.epoch
        start = self._resumed[1] if epoch == self._resumed[0] else 0
        draws, order = self._order(epoch)
        steps = -(-len(self) // self.accumulate)  # an epoch's last window may be short
        for position in range(start, len(self)):
            batch, part = order[position // self.parts], position % self.parts
            step = epoch * steps + position // self.accumulate
            yield self._part(draws[self._start[batch] : self._stop[batch]], part, epoch, step)

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The epoch's draws sorted by group, shuffled within each; and the order of the batches."""
        rng = np.random.default_rng(derive(self.seed, "order", epoch))
        shuffled = rng.permutation(len(self.draws)).astype(np.int32)
        by_group = shuffled[np.argsort(self.draws.group_of[shuffled], kind="stable")]
        return by_group, rng.permutation(len(self._start))

    def _part(self, indices: np.ndarray, part: int, epoch: int, step: int) -> list[Place]:
        """A part of this rank's part of a batch."""
        count = self.world * self.parts
        own = indices[self.rank + self.world * part :: count].tolist()
        share = len(own) * count / len(indices) if count > 1 else 1.0
        if not own:
            own, share = indices[:1].tolist(), 0.0
        return [Place(Draw(epoch, index), step, share) for index in own]
