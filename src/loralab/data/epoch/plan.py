"""The plan of a training, before anything is decoded: images, buckets, epochs, and notes about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from random import Random
from typing import Any

from loralab.data.augment import Augment
from loralab.data.epoch.draws import BatchGroup, Draws
from loralab.data.epoch.sampler import BucketSampler
from loralab.data.folders import Folder
from loralab.data.index.index import Index
from loralab.data.index.walk import Skipped
from loralab.errors import Problem, UserError
from loralab.files import printable
from loralab.progress import progress
from loralab.types import Fit, Item

_BLOCK = 100
"""Captions between updates of the progress bar."""
SHORT = 75
"""Bytes; shorter captions are measured at once, and too many to remember."""


def fixed_rules(folders: Sequence[Folder]) -> list[Folder]:
    """The folders without anything random in their rules."""
    return [replace(folder, captions=folder.captions.fixed(), augment=Augment()) for folder in folders]


def fixed_caption(item: Item, fixed: Sequence[Folder]) -> str:
    """The caption of an image under fixed_rules()."""
    return fixed[item.source].captions.apply(item.caption, Random(0))


class Fitting:
    """Measures captions, each distinct one once."""

    def __init__(self, folders: Sequence[Folder], fit: Callable[[str], Fit]) -> None:
        self._fixed, self._fit = fixed_rules(folders), fit
        self._known: dict[str, Fit] = {}
        self._rng = Random(0)

    def __call__(self, text: str, source: int) -> Fit:
        """The fit of a caption; source: of its image."""
        rules = self._fixed[source].captions
        # only wildcards use the generator, and making one takes longer than the rest
        caption = rules.apply(text, Random(0) if rules.wildcards else self._rng)
        if len(caption.encode()) <= SHORT:
            return self._fit(caption)
        if caption not in self._known:
            self._known[caption] = self._fit(caption)
        return self._known[caption]

    def select(self, index: Index) -> tuple[Index, int]:
        """The index without the images whose captions are too long, if data.captions.overlong is skip; and how many of
        the others have captions that are truncated."""
        lost: dict[int, int] = {}
        with progress("measuring captions", len(index), "captions") as advance:
            for position, (text, source) in enumerate(index.captions()):
                if cut := self(text, source).lost:
                    lost[position] = cut
                if position % _BLOCK == 0:
                    advance(_BLOCK)
        rules = {position: self._fixed[index[position].source].captions.overlong for position in lost}
        words = {position: f"its caption is {count} tokens too long" for position, count in lost.items()}
        remedy = "shorten it, raise model.max_token_length, or set data.captions.overlong=truncate"
        problems = [Problem(printable(index[i].path), words[i], remedy) for i, rule in rules.items() if rule == "error"]
        if problems:
            raise UserError(*problems[:20])
        skipped = {i: words[i] for i, rule in rules.items() if rule == "skip"}
        return index.without(skipped) if skipped else index, len(lost) - len(skipped)


@dataclass
class Plan:
    """index: all images. draws: the epochs. validation: of held-out images and of as many trained on, or empty.
    skipped: the files of all folders that are skipped, and why."""

    index: Index
    draws: Draws
    skipped: list[Skipped]
    validation: list[Draws] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)
    """Notes about the held-out images."""
    cut: int = 0
    """Number of captions that are truncated."""

    @property
    def held_out(self) -> int:
        """Number of images in the validation set, which are not trained on."""
        return len(self.validation[0].items) if self.validation else 0

    def digest(self) -> str:
        """A hash of the images, captions and masks, and of which of them are trained on."""
        return blake2b(f"{self.index.digest()} {self.draws.chosen}".encode(), digest_size=16).hexdigest()

    def validation_digest(self) -> str:
        """A hash of the images and captions of the validation."""
        watched = [(item.digest, item.caption) for draws in self.validation for item in draws.items]
        return blake2b(repr(watched).encode(), digest_size=16).hexdigest()

    def summary(self, sampler: BucketSampler) -> dict[str, Any]:
        """Facts about the training data, as plain values."""
        reg = self.index.regularisation
        return {
            "images": len(self.index) - reg,
            "regularisation": reg,
            "held_out": self.held_out,
            "draws": len(self.draws),
            "training_draws": self.draws.training,
            "batches": len(sampler),
            "buckets": list(self._buckets(sampler)),
            "skipped": [{"path": printable(path), "reason": reason} for path, reason in self.skipped],
            "notes": [*self.index.notes, *self.apart, *self._caption_notes(), *self.notes(sampler)],
        }

    def _buckets(self, sampler: BucketSampler):
        """A row per bucket: its size, images, draws per epoch, and batch size."""
        images = self.draws.images
        draws: Counter = Counter()
        for group, count in zip(self.draws.groups, sampler.counts, strict=True):
            draws[group.bucket] += int(count)
        for bucket in sorted(images):
            batch = self.draws.batch(bucket) * sampler.world
            yield {"size": list(bucket), "images": images[bucket], "draws": draws[bucket], "batch_size": batch}

    def _caption_notes(self) -> Iterator[str]:
        if self.index.silent:
            yield f"images without a caption: {self.index.silent}"
        if self.cut:
            yield f"captions truncated, as they have more tokens than model.max_token_length: {self.cut}"

    def notes(self, sampler: BucketSampler) -> Iterator[str]:
        """A line for everything unexpected about how the images are used."""
        rules = [folder.captions for folder in self.index.folders]
        lines = sum("\n" in text and not rules[source].wildcards for text, source in self.index.captions())
        thin = [g for g, n in zip(self.draws.groups, sampler.counts, strict=True) if n < self._full(g, sampler)]
        if lines:
            yield f"captions of which only the first line is used (data.captions.wildcards=true draws a line): {lines}"
        if thin:
            yield f"buckets that do not fill a batch (data.buckets.partial): {len(thin)} of {len(self.draws.groups)}"
        if self.draws.moved:
            yield f"images of small buckets moved to the bucket of the nearest aspect ratio: {self.draws.moved}"
        if sampler.left_out:
            yield f"samples skipped in each epoch, as they do not fill a batch: {sampler.left_out} of {len(self.draws)}"
        if self.draws.unused_regularisation:
            yield f"regularisation images never used, as their bucket is too rare: {self.draws.unused_regularisation}"

    def _full(self, group: BatchGroup, sampler: BucketSampler) -> int:
        return self.draws.batch(group.bucket) * sampler.world
