"""The draws of an epoch: which image each is, and at which size.

Draws 0 … N−1 are the training images, each as often as it is repeated, once for each resolution. Where there are
regularisation images, draws N … 2N−1 are as many of them, taken in turn: an epoch continues where the one before ended.
They are taken in turn within each group (bucket), whose share of the N is fixed, so that all epochs have equally many
batches.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from loralab.data.buckets import Buckets
from loralab.data.geometry import Size
from loralab.errors import user_error
from loralab.types import Draw, Item

MOST = 100_000_000
"""Maximum number of samples per epoch: their order takes some bytes each."""


@dataclass(frozen=True, slots=True)
class BatchSize:
    """How many samples a batch of a bucket has: `samples`, or as many as a budget of `pixels` allows, at least 1."""

    samples: int
    pixels: int | None = None

    def __call__(self, bucket: Size) -> int:
        return self.samples if self.pixels is None else max(1, self.pixels // (bucket[0] * bucket[1]))


class Entry(NamedTuple):
    """An image at the size that it is trained at."""

    item: Item
    bucket: Size
    resized: Size


class BatchGroup(NamedTuple):
    """What batches are made of: draws of one bucket (and, with token buckets, of equally long captions)."""

    bucket: Size
    chunks: int
    """Chunks of 75 tokens; 0 where captions are not grouped by length."""


class Draws:
    """Every draw of every epoch, without a list of them: a few numbers per image.

    items: the images; chosen: positions of those that are used (None: all); sizes: the pixel budgets; batch: batch size
    of a bucket; chunks: of an image's caption, where batches are grouped by it.
    """

    def __init__(
        self,
        items: Sequence[Item],
        sizes: Sequence[Size],
        buckets: Buckets,
        batch: Callable[[Size], int],
        chosen: Iterable[int] | None = None,
        chunks: Callable[[Item], int] | None = None,
    ) -> None:
        self.items, self.sizes, self.buckets, self.batch = items, list(sizes), buckets, batch
        columns, groups, moved = self._entries(range(len(items)) if chosen is None else chosen, chunks)
        self._item, self._size, repeats, self._is_reg, self._group = columns
        self.groups, self.moved = groups, moved
        train, reg = np.flatnonzero(self._is_reg == 0), np.flatnonzero(self._is_reg)
        if repeats.sum(dtype=np.int64) > MOST:
            found = f"an epoch would have {repeats.sum(dtype=np.int64):,} samples"
            raise user_error("data.folder", found, f"at most {MOST:,}; lower the repeats in the folders' names")
        self._train = np.repeat(train, repeats[train]).astype(np.int32)
        self._reg, self._quota = self._turns(np.repeat(reg, repeats[reg]))
        self._reg_start = np.cumsum([len(self._train), *self._quota])
        parts = [self._group[self._train], np.repeat(np.arange(len(groups)), self._quota)]
        self.group_of = np.concatenate(parts).astype(np.min_scalar_type(max(1, len(groups))))
        """(number of draws,) the group of each draw: the same in every epoch."""

    def __len__(self) -> int:
        """Draws in an epoch."""
        return len(self.group_of)

    @property
    def rows(self) -> int:
        """Images, each counted once for each of its sizes."""
        return len(self._item)

    @property
    def images(self) -> Counter[Size]:
        """Bucket → how many images it has, each counted once for each of its sizes."""
        counts: Counter[Size] = Counter()
        for group, count in zip(self.groups, np.bincount(self._group, minlength=len(self.groups)), strict=True):
            counts[group.bucket] += int(count)
        return counts

    @property
    def training(self) -> int:
        """Draws of training images in an epoch; the others are of regularisation images."""
        return len(self._train)

    @property
    def unused_regularisation(self) -> int:
        """Regularisation images whose bucket is too rare to be drawn in any epoch."""
        return sum(len(np.unique(turn)) for turn, quota in zip(self._reg, self._quota, strict=True) if not quota)

    def __getitem__(self, draw: Draw) -> Entry:
        """The image of a draw."""
        if draw.index < len(self._train):
            return self.entry(self._train[draw.index])
        group = int(np.searchsorted(self._reg_start, draw.index, side="right")) - 1
        place = draw.epoch * int(self._quota[group]) + draw.index - int(self._reg_start[group])
        return self.entry(self._reg[group][place % len(self._reg[group])])

    def others(self, draw: Draw) -> Iterator[Entry]:
        """The images that can replace that of a draw, those of its bucket; the first one depends on the draw."""
        is_reg = draw.index >= len(self._train)
        mates = np.flatnonzero((self._group == self.group_of[draw.index]) & (self._is_reg == is_reg))
        return map(self.entry, np.roll(mates, -(draw.index % len(mates))).tolist())

    @property
    def chosen(self) -> list[int]:
        """Positions of the images that are used."""
        return np.unique(self._item).tolist()

    def training_items(self) -> Iterator[Item]:
        """Each training image, once."""
        rows = np.unique(self._item[self._train])
        return (self.items[int(row)] for row in rows)

    def entries(self) -> Iterator[Entry]:
        """Each image at each of its sizes, once."""
        return map(self.entry, range(self.rows))

    def entry(self, row: int) -> Entry:
        """An image at one of its sizes, row 0 … rows − 1."""
        item = self.items[int(self._item[row])]
        bucket = self.groups[self._group[row]].bucket
        own, resized = self.buckets.assign(item.width, item.height, self.sizes[self._size[row]])
        return Entry(item, bucket, resized if own == bucket else self.buckets.refit(item.width, item.height, bucket))

    def _entries(
        self, chosen: Iterable[int], chunks: Callable[[Item], int] | None
    ) -> tuple[np.ndarray, list[BatchGroup], int]:
        """Columns (item, size, repeats, is_reg, group) with a row for each image at each size (5, rows); the groups;
        and how many rows were moved from buckets that do not fill a batch."""
        found: dict[tuple[int, BatchGroup], int] = {}
        rows = array("i")
        for index in chosen:
            item = self.items[index]
            length = chunks(item) if chunks else 0
            for size, resolution in enumerate(self.sizes):
                bucket, _ = self.buckets.assign(item.width, item.height, resolution)
                group = found.setdefault((size, BatchGroup(bucket, length)), len(found))
                rows.extend((index, size, item.repeats, item.is_reg, group))
        columns = np.array(rows, np.int32).reshape(-1, 5).T.copy()
        moved = self._moved(found, columns) if self.buckets.partial == "merge" else {}
        targets = [group._replace(bucket=moved.get((size, group.bucket), group.bucket)) for size, group in found]
        went = np.array([target != group for target, (_, group) in zip(targets, found, strict=True)], bool)
        groups = sorted(set(targets))
        number = {group: i for i, group in enumerate(groups)}
        count = int(went[columns[4]].sum())
        columns[4] = np.array([number[target] for target in targets], np.int32)[columns[4]]
        return columns, groups, count

    def _moved(self, found: dict[tuple[int, BatchGroup], int], columns: np.ndarray) -> dict[tuple[int, Size], Size]:
        """The buckets of each size that are merged into others of it."""
        samples = np.bincount(columns[4], weights=columns[2], minlength=len(found))
        counts: dict[int, Counter[Size]] = {}
        for (size, group), number in found.items():
            counts.setdefault(size, Counter())[group.bucket] += int(samples[number])
        return {
            (size, thin): target
            for size, by_bucket in counts.items()
            for thin, target in self.buckets.merged(by_bucket, self.batch).items()
        }

    def _turns(self, reg: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        """The regularisation rows of each group, repeated, and how many an epoch takes of them (largest remainders)."""
        groups = self._group[reg]
        by_group = reg[np.argsort(groups, kind="stable")].astype(np.int32)
        turns = np.split(by_group, np.cumsum(np.bincount(groups, minlength=len(self.groups)))[:-1])
        if not len(reg):
            return turns, np.zeros(len(self.groups), np.int64)
        exact = np.array([len(turn) for turn in turns]) * len(self._train) / len(reg)
        quota = exact.astype(np.int64)
        most = np.argsort(quota - exact, kind="stable")[: len(self._train) - quota.sum()]
        quota[most] += 1
        return turns, quota
