"""What a training is made of, before anything is decoded: images, buckets, epochs, and what is to be said of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from loralab.data.draws import Draws, Group
from loralab.data.index import Folder, Index
from loralab.data.sampler import BucketSampler
from loralab.errors import Problem, UserError
from loralab.types import Item

CHUNK = 75
"""Tokens in a chunk. Every token is at least one byte long: shorter captions need not be counted."""


class Fit(NamedTuple):
    """How a caption fits the text encoder."""

    chunks: int
    """Chunks of 75 tokens it needs."""
    lost: int
    """Tokens cut off because it needs more than there are."""


def fixed_caption(item: Item, folders: Sequence[Folder]) -> str:
    """The caption of an image without anything random."""
    return folders[item.source].captions.fixed().apply(item.caption, Random(0))


class Fitting:
    """Measures captions, each once."""

    def __init__(self, folders: Sequence[Folder], fit: Callable[[str], Any]) -> None:
        self.folders, self._fit = folders, fit
        self._known: dict[str, Any] = {}

    def __call__(self, item: Item) -> Fit:
        caption = fixed_caption(item, self.folders)
        if len(caption.encode()) <= CHUNK:
            return Fit(1, 0)
        if caption not in self._known:
            self._known[caption] = self._fit(caption)
        return self._known[caption]

    def select(self, index: Index) -> tuple[Index, int]:
        """The index less the images whose captions are too long, where data.captions.overlong says so; and how many of
        the others have captions that are cut."""
        left_out: dict[int, str] = {}
        problems, cut = [], 0
        for position, item in enumerate(index):
            lost = self(item).lost
            rule = self.folders[item.source].captions.overlong
            if lost and rule == "skip":
                left_out[position] = f"its caption is {lost} tokens too long"
            elif lost and rule == "error":
                remedy = "shorten it, raise model.max_token_length, or set data.captions.overlong=truncate"
                problems.append(Problem(item.path, f"its caption is {lost} tokens too long", remedy))
            elif lost:
                cut += 1
        if problems:
            raise UserError(*problems[:20])
        return index.without(left_out) if left_out else index, cut


@dataclass
class Plan:
    """index: all images. draws: the epochs. validation: of images held out and of as many trained on, or nothing."""

    index: Index
    draws: Draws
    validation: list[Draws] = field(default_factory=list)
    cut: int = 0
    """Captions that are longer than the text encoder takes."""

    def all_draws(self) -> list[Draws]:
        return [self.draws, *self.validation]

    def summary(self, sampler: BucketSampler) -> dict[str, Any]:
        """The facts of the training data, plain values."""
        reg = sum(item.is_reg for item in self.index)
        return {
            "images": len(self.index) - reg,
            "regularisation": reg,
            "held_out": len(self.validation[0]) if self.validation else 0,
            "draws": len(self.draws),
            "training_draws": self.draws.training,
            "batches": len(sampler),
            "buckets": list(self._buckets(sampler)),
            "skipped": [{"path": path, "reason": reason} for path, reason in self.index.skipped],
            "notes": [*self.index.notes, *self._notes(sampler)],
        }

    def _buckets(self, sampler: BucketSampler):
        """A row for each bucket: its size, images, draws in an epoch, and the batch size."""
        images = Counter(entry.bucket for entry in self.draws.entries())
        draws: Counter = Counter()
        for group, count in zip(self.draws.groups, sampler.counts, strict=True):
            draws[group.bucket] += int(count)
        for bucket in sorted(images):
            batch = self.draws.batch(bucket) * sampler.world
            yield {"size": list(bucket), "images": images[bucket], "draws": draws[bucket], "batch_size": batch}

    def _notes(self, sampler: BucketSampler):
        """One line for each thing that a user may not expect."""
        rules = [folder.captions for folder in self.index.folders]
        silent = sum(self.index.origin(i) == "none" for i in range(len(self.index)))
        lines = sum("\n" in item.caption and not rules[item.source].wildcards for item in self.index)
        thin = [g for g, n in zip(self.draws.groups, sampler.counts, strict=True) if n < self._full(g, sampler)]
        if silent:
            yield f"{silent} images have no caption"
        if self.cut:
            yield f"{self.cut} captions are cut: they have more tokens than model.max_token_length"
        if lines:
            yield f"{lines} captions have several lines; the first is used (data.captions.wildcards=true draws one)"
        if thin:
            yield f"{len(thin)} of {len(self.draws.groups)} buckets do not fill a batch (data.buckets.partial)"
        if self.draws.moved:
            yield f"{self.draws.moved} images of thin buckets are trained in the bucket of the nearest shape"
        if sampler.left_out:
            yield f"{sampler.left_out} of {len(self.draws)} samples are left out of each epoch: they fill no batch"
        if self.draws.unused_regularisation:
            yield f"{self.draws.unused_regularisation} regularisation images are never drawn: their shape is too rare"

    def _full(self, group: Group, sampler: BucketSampler) -> int:
        return self.draws.batch(group.bucket) * sampler.world
