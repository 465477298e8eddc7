"""Batches, made in this process or in workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from loralab.data.dataset import Dataset, collate
from loralab.data.sources.mounts import Source, mount_all, mounts
from loralab.errors import UserError
from loralab.signals import masked
from loralab.types import Batch, Example, Place


class Loader(DataLoader):
    """A loader that raises a UserError of a worker as such: torch would turn it into the text of a traceback."""

    def __init__(self, dataset: Dataset, batches: Any, replaced: set[str], **options: Any) -> None:
        """batches: lists of Places; replaced: the paths of images that were replaced by another are added to it."""
        given = {"batch_sampler": batches, "collate_fn": _collated, "worker_init_fn": partial(_mount, mounts())}
        super().__init__(_ErrorsReturned(dataset), **given, **options)
        self.draws, self.replaced = dataset.draws, replaced

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        with masked():
            batches = super().__iter__()
        if self.num_workers:
            # where Lightning ends the workers of a run that fails; garbage collection would wait 5 s for each of them
            self._iterator = batches  # type: ignore[assignment]
        for batch in batches:
            if isinstance(batch, UserError):
                raise batch
            wanted = [self.draws[draw].item.path for draw in batch.draws]
            self.replaced.update(path for path, item in zip(wanted, batch.items, strict=True) if path != item.path)
            yield batch


def _mount(sources: dict[str, Source], worker: int) -> None:
    mount_all(sources)


class _ErrorsReturned(torch.utils.data.Dataset):
    """A dataset that returns a UserError instead of raising it."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, place: Place) -> Example | UserError:
        try:
            return self.dataset[place]
        except UserError as error:
            return error


def _collated(examples: Sequence[Example | UserError]) -> Batch | UserError:
    good = [example for example in examples if not isinstance(example, UserError)]
    bad = [example for example in examples if isinstance(example, UserError)]
    return bad[0] if bad else collate(good)
