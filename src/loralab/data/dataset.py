"""From a draw (one sample of an epoch) to an example, and from examples to a batch."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from loralab.data import images
from loralab.data.augment import Augment, jitter
from loralab.data.cache import Cache
from loralab.data.decoding import View
from loralab.data.epoch.draws import Draws, Entry
from loralab.data.folders import Folder
from loralab.data.geometry import Corner, crop_corner, mirrored
from loralab.data.images import ImageError
from loralab.data.index.index import OnError
from loralab.errors import user_error
from loralab.files import printable
from loralab.rng import python_random
from loralab.types import Batch, Conditioning, Draw, Example, Place

log = logging.getLogger(__name__)


class Dataset(torch.utils.data.Dataset):
    """The samples of a training or a validation. Each is determined by the seed and its draw.

    folders: by Item.source, with the caption and augmentation rules of their images.
    cache: contains the latents of these images, if latents are cached.
    alpha_mask: transparency is the loss mask of images without a mask file. on_error: whether an image that cannot be
    read (any more) is replaced by another of its bucket, or ends the run.
    """

    def __init__(
        self,
        draws: Draws,
        folders: Sequence[Folder],
        seed: int,
        cache: Cache,
        *,
        alpha_mask: bool = False,
        on_error: OnError = "skip",
    ) -> None:
        self.draws, self.folders, self.seed, self.cache = draws, folders, seed, cache
        self.alpha_mask, self.on_error = alpha_mask, on_error

    def __len__(self) -> int:
        return len(self.draws)

    def __getitem__(self, place: Place) -> Example:
        """The sample of a draw. Raises a UserError if its image cannot be read and there is no replacement."""
        entry = self.draws[place.draw]
        try:
            return self._example(place, entry)
        except ImageError as error:
            if self.on_error == "stop":
                remedy = "repair or remove it, or set data.on_error=skip to skip it"
                raise user_error(printable(entry.item.path), str(error), remedy) from None
            return self._replacement(place, entry, error)

    def _replacement(self, place: Place, entry: Entry, error: ImageError) -> Example:
        for other in self.draws.others(place.draw):
            try:
                example = self._example(place, other)
            except ImageError:
                continue
            log.warning("%s %s; replaced by %s", printable(entry.item.path), error, printable(other.item.path))
            return example
        raise user_error(
            printable(entry.item.path),
            f"{error}; no other image of its bucket can be used either",
            "check that the folder still exists",
        )

    def _example(self, place: Place, entry: Entry) -> Example:
        item, bucket, resized = entry
        folder, draw = self.folders[item.source], place.draw
        view = View(self._corner(draw, entry, folder.augment), self._flips(draw, folder.augment))
        cached = self.cache.latents != "none"
        pixels = alpha = None
        if not cached or (self.alpha_mask and not item.mask):
            rgb, alpha = images.read(item.path, (item.width, item.height))
            pixels = None if cached else images.fit(rgb, resized, bucket, view.corner)
        if pixels is not None:
            pixels = jitter(pixels, self._random("color", draw)) if folder.augment.color else pixels
        mean, std = self.cache.lookup(item.digest, bucket, resized, view) if cached else (None, None)
        caption = folder.captions.apply(item.caption, self._random("caption", draw), draw.epoch, place.step)
        return Example(
            draw=draw,
            item=item,
            caption=caption,
            pixels=None if pixels is None else _to_tensor(pixels, view.flip).mul_(2).sub_(1),
            latent_mean=mean,
            latent_std=std,
            mask=self._mask(entry, alpha, view),
            crop=mirrored(view.corner, resized, bucket) if view.flip else view.corner,
            bucket=bucket,
            share=place.share,
            text=self.cache.lookup_text(caption) if self.cache.text else None,
        )

    def _corner(self, draw: Draw, entry: Entry, augment: Augment) -> Corner:
        """The crop of a draw; where latents are cached, one of the cached crops."""
        rng = self._random("crop", draw) if augment.random_crop else None
        if self.cache.latents == "none":
            return crop_corner(entry.resized, entry.bucket, rng)
        corners = self.cache.corners(entry.item.digest, entry.resized, entry.bucket, augment.random_crop)
        return rng.choice(corners) if rng else corners[0]

    def _flips(self, draw: Draw, augment: Augment) -> bool:
        return augment.flip and self._random("flip", draw).random() < 0.5

    def _mask(self, entry: Entry, alpha: np.ndarray | None, view: View) -> Tensor | None:
        """(1, H, W) in [0, 1], from the mask file or the transparency; None where there is neither."""
        whole = _read_mask(entry.item.mask) if entry.item.mask else alpha if self.alpha_mask else None
        return (
            None
            if whole is None
            else _to_tensor(images.fit(whole, entry.resized, entry.bucket, view.corner), view.flip)
        )

    def _random(self, purpose: str, draw: Draw) -> random.Random:
        return python_random(self.seed, purpose, draw.epoch, draw.index)


def _read_mask(path: str) -> np.ndarray:
    try:
        return images.read_grey(path)
    except ImageError as error:
        raise ImageError(f"cannot be used: its mask {printable(path)} {error}") from error


def _to_tensor(pixels: np.ndarray, flip: bool) -> Tensor:
    """(H, W[, C]) uint8 → (C, H, W) in [0, 1]."""
    pixels = pixels[:, ::-1] if flip else pixels
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.array(planes, order="C")).float().div_(255)


def collate(examples: list[Example]) -> Batch:
    """Stacks examples of one bucket. If some have a mask, those without get one of ones."""
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
        text=_texts([example.text for example in examples]),
    )


def _stack(tensors: list[Tensor | None]) -> Tensor | None:
    given = [tensor for tensor in tensors if tensor is not None]
    assert len(given) in (0, len(tensors)), "a batch has pixels or latents, not some of each"
    return torch.stack(given) if given else None


def _texts(texts: list[Conditioning | None]) -> list[Conditioning] | None:
    given = [text for text in texts if text is not None]
    assert len(given) in (0, len(texts)), "the text of a batch is cached or not"
    return given or None


def _masks(masks: list[Tensor | None], height: int, width: int) -> Tensor | None:
    if all(mask is None for mask in masks):
        return None
    return torch.stack([torch.ones(1, height, width) if mask is None else mask for mask in masks])
