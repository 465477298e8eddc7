"""The data of a run: from settings to loaders."""

from __future__ import annotations

import math
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch.utils.data import DataLoader

from loralab.data import tags
from loralab.data.augment import Augment
from loralab.data.buckets import Buckets
from loralab.data.cache import Cache
from loralab.data.captions import Captions
from loralab.data.dataset import Dataset, collate
from loralab.data.epoch.draws import Draws
from loralab.data.epoch.plan import fixed_caption, fixed_rules
from loralab.data.epoch.planner import Planner
from loralab.data.epoch.sampler import BucketSampler
from loralab.data.folders import Folder
from loralab.data.index.index import OnError
from loralab.data.jobs import Jobs
from loralab.data.loader import Loader
from loralab.data.sources.mounts import told
from loralab.data.validation import Validation, fixed_batches
from loralab.errors import Problem, UserError, user_error
from loralab.files import printable
from loralab.ranks import Ranks
from loralab.schema.ranges import AtLeastOne, Count, NonNegative, Pixels
from loralab.types import Batch, Item, Place

if TYPE_CHECKING:
    from loralab.models.family import Family


class DataModule(L.LightningDataModule):
    """Images, captions and masks as batches of one bucket.

    folder, reg_folder: training and regularisation images. folders: several, each with settings of its own (see Folder;
    its `captions` and `augment` contain what differs from those here). resolution: the pixel budget, a side or [w, h],
    or a list of several. batch_pixels: a pixel budget per batch, instead of a number of samples. batch_parts: in which
    each is trained, one after the other. on_error: what is done
    with files that cannot be used. min_image_size, max_image_size: of the shorter and the longer side, pixels.
    alpha_mask: transparency is the loss mask. mask_folder: loss masks, named like the images. metadata: one file with
    the captions. cache_folder: of the index; null: $LORALAB_CACHE or ~/.cache/loralab. downloads_gb: of
    remote files that are kept there.

    Building it finds the images, which needs no model; it raises a UserError if there are none. Attaching the model
    plans the epochs. Nothing is decoded before a loader is built: by then the model is on its device, and latents
    are encoded there.
    """

    def __init__(
        self,
        seed: int,
        *,
        folder: str | None = None,
        folders: list[Folder] | None = None,
        reg_folder: str | None = None,
        resolution: Pixels | list[Pixels | list[Pixels]] = 512,
        batch_size: AtLeastOne = 1,
        batch_pixels: AtLeastOne | None = None,
        batch_parts: AtLeastOne = 1,
        num_workers: Count = 0,
        persistent_workers: bool = False,
        on_error: OnError = "skip",
        min_image_size: AtLeastOne | None = None,
        max_image_size: AtLeastOne | None = None,
        alpha_mask: bool = False,
        mask_folder: str | None = None,
        metadata: str | None = None,
        cache_folder: str | None = None,
        downloads_gb: NonNegative = 20.0,
        buckets: Buckets,
        captions: Captions,
        augment: Augment,
        cache: Cache,
        validation: Validation,
    ) -> None:
        super().__init__()
        self.seed, self.cache = seed, cache
        self.num_workers, self.persistent_workers = num_workers, persistent_workers
        self.alpha_mask = alpha_mask
        self.planner = Planner.of(
            folder=folder,
            folders=folders,  # mappings: their captions and augment are partial rules
            reg_folder=reg_folder,
            mask_folder=mask_folder,
            metadata=metadata,
            resolution=resolution,
            batch_size=batch_size,
            batch_pixels=batch_pixels,
            batch_parts=batch_parts,
            augment=augment,
            captions=captions,
            buckets=buckets,
            validation=validation,
            on_error=on_error,
            min_image_size=min_image_size,
            max_image_size=max_image_size,
            cache_folder=cache_folder,
            downloads_gb=downloads_gb,
            hashed=True,
            alpha_mask=alpha_mask,
        )
        self.folders = list(self.planner.folders)
        self._resumed = (0, 0)
        self._replaced: set[str] = set()
        self._is_encoded = False
        self.ranks = Ranks()
        self._index = self.planner.scan()

    def attach(self, family: Family) -> None:
        """Plans the epochs for the model that will be trained, which determines how long captions may be; what of it is
        needed for the caches alone rests afterwards."""
        self.family = family
        family.rest([*["vae"] * (self.cache.latents != "none"), *(family.encoders if self.cache.text else ())])
        self.plan = self.planner.plan(self._index, family.fit)

    def summary(self) -> dict[str, Any]:
        """Facts about the training data, as plain values."""
        replaced = [printable(path) for path in sorted(self._replaced)]
        sources = told(folder.path for folder in self.planner.all_folders)
        return {**self.plan.summary(self._attached_sampler()), "replaced": replaced, "sources": sources}

    def tag_counts(self) -> Counter[str]:
        """How often each tag occurs in the training images, repeats counted."""
        return tags.occurrences(self.plan.draws.training_items(), self.folders)

    def tags_of(self, item: Item) -> list[str]:
        """The tags of an image, as they are counted."""
        return tags.tags(item, self.folders[item.source].captions)

    def tag_frequency(self) -> dict[str, Counter[str]]:
        """Folder name → tag → number of images."""
        return tags.by_folder(self.plan.index, self.folders)

    def example_captions(self, count: int) -> list[str]:
        """The first distinct captions of the training images, without anything random; no empty ones."""
        captions: dict[str, None] = {}
        rules = fixed_rules(self.folders)
        for item in self.plan.draws.training_items():
            if caption := fixed_caption(item, rules):
                captions[caption] = None
            if len(captions) == count:
                break
        return list(captions)

    def sampler(self, rank: int = 0, world: int = 1, accumulate: int = 1) -> BucketSampler:
        """The training batches of one rank of several; accumulate: batches in an optimizer step."""
        sampler = self.planner.sampler(self.plan, self.seed, rank=rank, world=world, accumulate=accumulate)
        sampler.resume(*self._place(len(sampler)))
        return sampler

    def resume(self, epoch: int, position: int) -> None:
        """Makes training start in an epoch (counted from 0) after `position` of its batches."""
        self._resumed = (epoch, position)

    def begins_at(self) -> tuple[int, int]:
        """(epoch, number of its batches already done) where training starts."""
        return self._place(len(self._attached_sampler()))

    def _place(self, batches: int) -> tuple[int, int]:
        """The same for epochs of so many batches; an epoch with no batches left is over."""
        limit = getattr(self.trainer, "limit_train_batches", None) or 1.0
        batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
        epoch, position = self._resumed
        return (epoch, position) if position < batches else (epoch + 1, 0)

    def train_dataloader(self) -> DataLoader:
        self._refuse_no_batches()
        self._encode()
        sampler = self._attached_sampler()
        # to overfit a few batches they must be the same in each epoch: a list does not change
        fixed = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        dataset = self._dataset(self.plan.draws, self.folders, self.seed)
        return self._loader(dataset, list(sampler) if fixed else sampler)

    def val_dataloader(self) -> list[DataLoader]:
        """The held-out images, then as many of those trained on: the same batches each time."""
        self._encode()
        rules = fixed_rules(self.planner.all_folders)
        datasets = [self._dataset(draws, rules, 0) for draws in self.plan.validation]
        return [self._loader(dataset, fixed_batches(dataset.draws)) for dataset in datasets]

    def largest_batch(self) -> Batch:
        """The training batch of the most pixels that comes first, as it is in its epoch; the caches are filled."""
        draws, dataset = self.plan.draws, self._dataset(self.plan.draws, self.folders, self.seed)

        def pixels(batch: list[Place]) -> int:
            return len(batch) * math.prod(draws.groups[draws.group_of[batch[0].draw.index]].bucket)

        return collate([dataset[place] for place in max(self._attached_sampler(), key=pixels)])

    def batch_shapes(self) -> int:
        """How many shapes the training batches of the epoch have: sizes of images, and numbers of them."""
        draws = self.plan.draws
        return len({(draws.groups[draws.group_of[b[0].draw.index]].bucket, len(b)) for b in self._attached_sampler()})

    def each_image(self) -> DataLoader:
        """Each training image once (at each resolution), without anything random; needs no attached trainer, and uses
        no cache."""
        draws = self.planner.once(list(self.plan.draws.training_items()))
        dataset = Dataset(draws, fixed_rules(self.folders), 0, Cache(), alpha_mask=self.alpha_mask)
        return self._loader(dataset, fixed_batches(draws))

    def _encode(self) -> None:
        """Fills the caches, once."""
        if self._is_encoded:
            return
        with self.family.resting.keeping():
            self._fill_caches()
        self._is_encoded = True

    def _fill_caches(self) -> None:
        if self.cache.latents != "none":
            self._encode_latents()
        if self.cache.text:
            empty = [""] if any(folder.captions.may_be_empty for folder in self.folders) else []
            items = [entry.item for draws, _ in self._all_draws() for entry in draws.entries()]
            rules = fixed_rules(self.planner.all_folders)
            captions = [*(fixed_caption(item, rules) for item in items), *empty]
            with self._precision():
                self.cache.fill_texts(captions, self.family, ranks=self.ranks)

    def _precision(self) -> AbstractContextManager[None]:
        """That of training, in which texts that are not cached are encoded."""
        return nullcontext() if self.trainer is None else self.trainer.precision_plugin.forward_context()

    def _refuse_no_batches(self) -> None:
        """Raises a UserError if trainer.limit_train_batches is a share of less than one batch."""
        share = getattr(self.trainer, "limit_train_batches", None)
        batches = len(self._attached_sampler())
        if isinstance(share, float) and int(share * batches) == 0:
            setting = "overfit_batches" if self.trainer.overfit_batches else "limit_train_batches"  # type: ignore[union-attr]
            remedy = f"use at least {1 / batches:.2g}, or a number of batches: trainer.{setting}=1"
            raise user_error(f"trainer.{setting}", f"{share:g} of {batches} batches is less than one batch", remedy)

    def _all_draws(self) -> list[tuple[Draws, list[Folder]]]:
        """Draws of the training and of the validation, each with the folders whose rules apply."""
        watched = fixed_rules(self.planner.all_folders)
        return [(self.plan.draws, self.folders), *((draws, watched) for draws in self.plan.validation)]

    def _encode_latents(self) -> None:
        """Fills the cache of latents; damaged images are skipped and the epochs planned again until all are encoded."""
        start, made, batch, workers = time.monotonic(), 0, self.planner.batch.samples, self.num_workers or None
        damaged: dict[str, str] = {}
        while True:
            jobs = Jobs(self._all_draws(), self.cache)
            filled = self.cache.fill(jobs, self.family, batch_size=batch, workers=workers, ranks=self.ranks)
            made += filled.made
            if not filled.failed:
                break
            damaged |= {jobs[position].path: why for position, why in filled.failed.items()}
            if self.planner.on_error == "stop":
                raise UserError(
                    *(Problem(printable(path), why, "repair or remove it") for path, why in damaged.items())
                )
            self.plan = self.planner.plan(self.plan.index, self.family.fit, damaged)
        for path, why in damaged.items():
            self._print(f"skipped   {printable(path)}: {why}")
        if damaged:
            self._print(f"batches   {len(self._attached_sampler())} per epoch, without the skipped images")
        speed = f", {made / (time.monotonic() - start):.1f} images/s" if made else ""
        self._print(f"latents   {max(0, len(jobs) - made)} of {len(jobs)} were cached, {made} encoded{speed}")

    def _print(self, words: str) -> None:
        """Prints what is only known after the opening summary of a run."""
        if self.trainer is None or self.trainer.is_global_zero:
            print(words, file=sys.stderr)

    def _attached_sampler(self) -> BucketSampler:
        """The sampler of this process, as the trainer (where there is one) splits and accumulates batches."""
        trainer = self.trainer
        if trainer is None:
            return self.sampler()
        return self.sampler(trainer.global_rank, trainer.world_size, trainer.accumulate_grad_batches)

    def _dataset(self, draws: Draws, folders: list[Folder], seed: int) -> Dataset:
        given = {"alpha_mask": self.alpha_mask, "on_error": self.planner.on_error}
        return Dataset(draws, folders, seed, self.cache, **given)

    def _loader(self, dataset: Dataset, batches: BucketSampler | list[list[Place]]) -> DataLoader:
        return Loader(
            dataset,
            batches,
            self._replaced,
            num_workers=self.num_workers,
            persistent_workers=self.persistent_workers and self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
        )
