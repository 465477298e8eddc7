"""From a draw to an example, and from examples to a batch."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from loralab.data import images
from loralab.data.augment import jitter
from loralab.data.draws import Draws, Entry
from loralab.data.geometry import Corner, crop_corner, mirrored
from loralab.data.images import ImageError
from loralab.data.index import Folder
from loralab.errors import user_error
from loralab.rng import python_random
from loralab.types import Batch, Draw, Example, Place

log = logging.getLogger(__name__)


class Dataset(torch.utils.data.Dataset):
    """The samples of a training or a validation. What a sample looks like is a function of the seed and its draw.

    folders: by Item.source, with the caption and augmentation rules of their images.
    alpha_mask: transparency is the loss mask of images without a mask file.
    """

    def __init__(self, draws: Draws, folders: Sequence[Folder], seed: int, *, alpha_mask: bool = False) -> None:
        self.draws, self.folders, self.seed, self.alpha_mask = draws, folders, seed, alpha_mask

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, place: Place) -> Example:
        """The sample of a draw. An image that cannot be read any more is replaced by another of its bucket."""
        entry = self.draws[place.draw]
        try:
            return self._example(place, entry)
        except ImageError as error:
            return self._instead(place, entry, error)

    def _instead(self, place: Place, entry: Entry, error: ImageError) -> Example:
        for other in self.draws.others(place.draw):
            try:
                example = self._example(place, other)
            except ImageError:
                continue
            log.warning("%s %s; %s takes its place", entry.item.path, error, other.item.path)
            return example
        raise user_error(
            entry.item.path, f"{error}, like all images of its bucket", "check that the folder is still there"
        )

    def _example(self, place: Place, entry: Entry) -> Example:
        item, bucket, resized = entry
        folder = self.folders[item.source]
        captions, augment = folder.captions, folder.augment
        flip = augment.flip and self._random("flip", place.draw).random() < 0.5
        corner = crop_corner(resized, bucket, self._random("crop", place.draw) if augment.random_crop else None)
        rgb, alpha = images.read(item.path)
        pixels = images.fit(rgb, resized, bucket, corner)
        if augment.color:
            pixels = jitter(pixels, self._random("color", place.draw))
        return Example(
            draw=place.draw,
            item=item,
            caption=captions.apply(item.caption, self._random("caption", place.draw), place.draw.epoch, place.step),
            pixels=_to_tensor(pixels, flip).mul_(2).sub_(1),
            latent_mean=None,
            latent_std=None,
            mask=self._mask(entry, alpha, corner, flip),
            crop=mirrored(corner, resized, bucket) if flip else corner,
            bucket=bucket,
            share=place.share,
        )

    def _mask(self, entry: Entry, alpha: np.ndarray | None, corner: Corner, flip: bool) -> Tensor | None:
        """(1, H, W) in [0, 1], from the mask file or the transparency; None where there is neither."""
        whole = images.read_grey(entry.item.mask) if entry.item.mask else alpha if self.alpha_mask else None
        return None if whole is None else _to_tensor(images.fit(whole, entry.resized, entry.bucket, corner), flip)

    def _random(self, purpose: str, draw: Draw) -> random.Random:
        return python_random(self.seed, purpose, draw.epoch, draw.index)


def _to_tensor(pixels: np.ndarray, flip: bool) -> Tensor:
    """(H, W[, C]) uint8 → (C, H, W) in [0, 1]."""
    pixels = pixels[:, ::-1] if flip else pixels
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes)).float().div_(255)


def collate(examples: list[Example]) -> Batch:
    """Stacks examples of one bucket. An example without a mask counts everywhere where others of the batch have one."""
    width, height = examples[0].bucket
    assert all(example.bucket == (width, height) for example in examples), "a batch is of one bucket"
    size = torch.tensor([[height, width]] * len(examples))  # (B, 2)
    return Batch(
        draws=[example.draw for example in examples],
        items=[example.item for example in examples],
        captions=[example.caption for example in examples],
        pixels=_stack([example.pixels for example in examples]),
        latent_mean=_stack([example.latent_mean for example in examples]),
        latent_std=_stack([example.latent_std for example in examples]),
        mask=_masks([example.mask for example in examples], height, width),
        weight=torch.tensor([example.item.weight * example.share for example in examples]),
        is_reg=torch.tensor([example.item.is_reg for example in examples]),
        original_size=torch.tensor([[example.item.height, example.item.width] for example in examples]),
        crop=torch.tensor([example.crop for example in examples]),
        target_size=size,
    )


def _stack(tensors: list[Tensor | None]) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    assert len(given) in (0, len(tensors)), "a batch has pixels or latents, not some of each"
    return torch.stack(given) if given else None


def _masks(masks: list[Tensor | None], height: int, width: int) -> Tensor | None:
    if all(mask is None for mask in masks):
        return None
    return torch.stack([torch.ones(1, height, width) if mask is None else mask for mask in masks])
