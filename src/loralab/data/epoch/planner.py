"""From folders to the plan of a training. Needs neither a model nor torch: the doctor plans as training does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loralab.data.augment import Augment
from loralab.data.buckets import Buckets, resolutions
from loralab.data.captions import Captions
from loralab.data.epoch.draws import BatchSize, Draws
from loralab.data.epoch.plan import Fitting, Plan
from loralab.data.epoch.sampler import BucketSampler
from loralab.data.folders import Folder, gather
from loralab.data.geometry import Size
from loralab.data.index.index import Index, OnError, scan
from loralab.data.index.walk import Skipped
from loralab.data.validation import Validation, held_out, sample
from loralab.errors import user_error
from loralab.types import Fit, Item

_PLANNED = (
    *(
        "folder",
        "folders",
        "reg_folder",
        "mask_folder",
        "metadata",
        "resolution",
        "batch_size",
        "batch_pixels",
        "batch_parts",
    ),
    *("on_error", "min_image_size", "max_image_size", "cache_folder", "downloads_gb", "alpha_mask"),
)


@dataclass(frozen=True)
class Planner:
    """Decides which images are trained on, at which sizes and in which batches.

    sizes: the pixel budgets. batch: batch size of a bucket. captions: the rules of a folder without its own.
    on_error: what is done with files that cannot be used. min_image_size, max_image_size: of the shorter and the longer
    side, pixels. cache_folder: of the index (see store.cache_folder). hashed: images are hashed, as caches and
    training states need. batch_parts: in which each batch is given. downloads_gb: of remote files,
    kept in cache_folder. alpha_mask: transparency is the loss mask.
    """

    folders: Sequence[Folder]
    sizes: Sequence[Size]
    batch: BatchSize
    buckets: Buckets
    captions: Captions
    validation: Validation
    on_error: OnError = "skip"
    min_image_size: int | None = None
    max_image_size: int | None = None
    cache_folder: str | None = None
    hashed: bool = False
    batch_parts: int = 1
    downloads_gb: float = 0
    alpha_mask: bool = False

    @classmethod
    def of(
        cls,
        *,
        folder: str | None,
        folders: Sequence[Any] | None,
        reg_folder: str | None,
        mask_folder: str | None,
        metadata: str | None,
        resolution: Any,
        batch_size: int,
        batch_pixels: int | None,
        augment: Augment,
        captions: Captions,
        **further: Any,
    ) -> Planner:
        """From the settings of `data`, its nodes built."""
        found = gather(folder, folders or [], reg_folder, captions, augment, mask_folder, metadata)
        size = BatchSize(batch_size, batch_pixels)
        return cls(found, resolutions(resolution), size, captions=captions, **further)

    @classmethod
    def of_settings(cls, data: Mapping[str, Any]) -> Planner:
        """From the settings of `data` as plain values, as training makes it."""
        made = {"captions": Captions, "augment": Augment, "buckets": Buckets, "validation": Validation}
        rules = {name: kind(**{k: v for k, v in data[name].items() if k != "_target_"}) for name, kind in made.items()}
        return cls.of(**{name: data[name] for name in _PLANNED}, **rules)

    @property
    def all_folders(self) -> list[Folder]:
        """The training's folders and, last, that of the validation, if it has one: by Item.source."""
        apart = self.validation.folder
        rules = {"captions": self.captions, "setting": "data.validation.folder"}
        return [*self.folders, *([Folder(apart, **rules)] if apart else [])]

    def scan(self) -> Index:
        """Finds the images of the folders."""
        return self._scan(self.folders)

    def scan_apart(self) -> Index | None:
        """Finds the images of the validation's own folder, if there is one."""
        return self._scan(self.all_folders[-1:]) if self.validation.folder else None

    def plan(self, index: Index, fit: Callable[[str], Fit], damaged: Mapping[str, str] | None = None) -> Plan:
        """The plan for the images of an index; fit: measures a caption; damaged: path → why it is skipped."""
        fitting = Fitting(self.folders, fit)
        index, cut = fitting.select(_less(index, damaged or {}))
        out, apart, skipped, notes = self._apart(index, damaged or {})
        left = sorted(set(range(len(index))) - set(out))
        chunks = (lambda item: fitting(item.caption, item.source).chunks) if self.captions.token_buckets else None
        draws = Draws(index, self.sizes, self.buckets, self.batch, left, chunks)
        if not draws.training:
            raise user_error("data.folder", "no image is left to train on", "run loralab doctor to see why")
        return Plan(index, draws, [*index.skipped, *skipped], self._validation(index, left, apart), notes, cut)

    def sampler(self, plan: Plan, seed: int, *, rank: int = 0, world: int = 1, accumulate: int = 1) -> BucketSampler:
        """The training batches of one rank of several; accumulate: batches in an optimizer step."""
        full_only = self.buckets.partial == "drop"
        given = {"parts": self.batch_parts, "accumulate": accumulate, "full_only": full_only}
        sampler = BucketSampler(plan.draws, seed, rank=rank, world=world, **given)
        if not len(sampler):
            found = "no bucket fills a batch, so drop leaves no batches"
            raise user_error("data.buckets.partial", found, "use keep or merge, or lower data.batch_size")
        return sampler

    def _scan(self, folders: Sequence[Folder]) -> Index:
        limits = {"min_size": self.min_image_size, "max_size": self.max_image_size}
        index = scan(folders, self.cache_folder, self.on_error, **limits, downloads=self.downloads_gb * 1e9)
        index.notes.extend(self._of_alpha(index))
        return index.hashed(self.cache_folder, self.on_error) if self.hashed else index

    def _of_alpha(self, index: Index) -> Iterator[str]:
        """Notes on transparency that is not used, and on an alpha mask without transparency."""
        count = index.with_alpha
        if count and not self.alpha_mask:
            words = f"images with transparency, composited on white: {count}"
            yield f"{words}; data.alpha_mask=true uses transparency as the loss mask"
        if self.alpha_mask and not count:
            yield "data.alpha_mask has no effect: no image has transparency"

    def _apart(
        self, index: Index, damaged: Mapping[str, str]
    ) -> tuple[list[int], list[Item], list[Skipped], list[str]]:
        """Positions of images that are not trained on; the images of the validation; the files skipped in its folder;
        and notes about it."""
        found = self.scan_apart()
        if found is None:
            out = held_out(index, self.validation.split)
            return out, [index[position] for position in out], [], []
        apart = _less(found, damaged)
        return [], [replace(item, source=len(self.folders)) for item in apart], apart.skipped, apart.notes

    def _validation(self, index: Index, left: list[int], apart: list[Item]) -> list[Draws]:
        """Draws of the held-out images and of as many of those trained on."""
        if not apart:
            return []
        training = [position for position in left if not index[position].is_reg]
        seen = [index[position] for position in sample(index, training, len(apart))]
        return [self.once(items) for items in (apart, seen)]

    def once(self, items: list[Item]) -> Draws:
        """Draws of an epoch in which each of the items occurs once, at each resolution."""
        once = [replace(item, repeats=1) for item in items]
        return Draws(once, self.sizes, replace(self.buckets, partial="keep"), self.batch)


def _less(index: Index, damaged: Mapping[str, str]) -> Index:
    """An index without some images; damaged: path → why."""
    reasons = {i: damaged[item.path] for i, item in enumerate(index) if item.path in damaged} if damaged else {}
    return index.without(reasons) if reasons else index
