"""The pixels of images whose latents are wanted, decoded in worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from loralab.data import images
from loralab.data.geometry import Corner, Size
from loralab.data.images import ImageError
from loralab.data.sources import mounts


class View(NamedTuple):
    """The crop of an image that one latent shows."""

    corner: Corner
    flip: bool = False


class Job(NamedTuple):
    """An image whose latents are wanted."""

    path: str
    digest: str
    """Content hash of the file."""
    bucket: Size
    resized: Size
    views: tuple[View, ...]


class Decoded(NamedTuple):
    """Pixels of some images of one bucket."""

    keys: list[bytes]
    pixels: Tensor | None
    """(number of keys, H, W, 3) uint8; None where no image could be read."""
    images: int
    fresh: int
    """The number of images of which a view was missing."""
    failed: dict[int, str]


class Decoding(Dataset):
    """Decodes images in worker processes, which check again what is missing: another run may have encoded it."""

    def __init__(self, jobs: Sequence[Job], missing: Callable[[Job], list[tuple[bytes, View]]]) -> None:
        """missing: the views of an image that are not cached, by key."""
        self.jobs, self.missing = jobs, missing

    def __getitem__(self, position: int) -> tuple[int, list[bytes], list[np.ndarray], str | None]:
        job = self.jobs[position]
        missing = self.missing(job)
        if not missing:
            return position, [], [], None
        try:
            rgb, _ = images.read(job.path)
            is_same = mounts.digest(job.path) == job.digest
        except ImageError as error:
            return position, [], [], str(error)
        except OSError as error:
            return position, [], [], f"cannot be read ({error.strerror})"
        if not is_same:  # other pixels would be stored under the key of the old ones
            return position, [], [], "was changed after the run had started; start the run again to train on it"
        views = [images.fit(rgb, job.resized, job.bucket, view.corner) for _, view in missing]
        sides = [pixels[:, ::-1] if view.flip else pixels for pixels, (_, view) in zip(views, missing, strict=True)]
        return position, [key for key, _ in missing], sides, None


def gather(decoded: list[tuple[int, list[bytes], list[np.ndarray], str | None]]) -> Decoded:
    views = [view for _, _, views, _ in decoded for view in views]
    return Decoded(
        keys=[key for _, keys, _, _ in decoded for key in keys],
        pixels=torch.from_numpy(np.stack(views)) if views else None,
        images=len(decoded),
        fresh=sum(bool(keys) for _, keys, _, _ in decoded),
        failed={position: error for position, _, _, error in decoded if error},
    )


def batches(jobs: Sequence[Job], todo: Sequence[int], size: int) -> Iterator[list[int]]:
    """Batches of positions: images of one bucket, with about `size` views together."""
    # runs that start together begin at different positions, so that they share the work
    start = os.getpid() * 7919 % max(1, len(todo))
    by_bucket: dict[Size, list[int]] = {}
    for position in (*todo[start:], *todo[:start]):
        by_bucket.setdefault(jobs[position].bucket, []).append(position)
    for positions in by_bucket.values():
        step = max(1, size // len(jobs[positions[0]].views))
        yield from (positions[at : at + step] for at in range(0, len(positions), step))
