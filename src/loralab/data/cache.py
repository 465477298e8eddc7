"""Latents and text states that are computed once: in memory, or on disk for later runs.

A latent's key is a hash of everything that determines it: the image's bytes, the VAE's weights, the size it is resized
to, bucket, crop and flip. So no entry can be stale: a change gives another key. Mean and standard deviation of the
VAE's posterior are stored, not a sample of it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from math import prod
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from loralab.data.decoding import Decoded, Decoding, Job, View, batches, gather
from loralab.data.geometry import Corner, Size, crop_corner
from loralab.data.storage.records import InMemory, OnDisk, Store, Tensors, row_of
from loralab.data.storage.shared import Shared
from loralab.files import cache_folder
from loralab.progress import progress
from loralab.ranks import Ranks
from loralab.rng import python_random
from loralab.schema.ranges import AtLeastOne, Count, Repeats
from loralab.signals import masked
from loralab.types import Conditioning
from loralab.urls import plain

if TYPE_CHECKING:
    from loralab.models.family import Family

log = logging.getLogger(__name__)

T = TypeVar("T")
ALONE = Ranks()
_PAUSE = 0.5
"""Seconds between two looks at what other runs are encoding."""
_MANY = 64
"""Number of images from which on workers are started to decode them."""


class Filled(NamedTuple):
    """The result of filling a cache."""

    made: int
    """Images encoded now; the others were cached, or were encoded by another run meanwhile."""
    failed: dict[int, str]
    """Position of an image that could not be read → why."""


class Cache:
    """Where latents and text states are kept between epochs, and between runs.

    latents: `none` encodes anew each time; `memory` keeps them for the run, `disk` for all runs.
    text: the text encoder's outputs too, where it is frozen and captions do not vary; on disk if the latents are.
    `auto` is resolved where settings are composed (see loralab.schema.automatic).
    variants: number of crops cached per image where crops are random. folder: null: that of data.cache_folder.
    share: a URL by which machines share what is on their disks.
    """

    def __init__(
        self,
        latents: Literal["none", "memory", "disk"] = "none",
        text: bool | Literal["auto"] = False,
        variants: Repeats = 1,
        folder: str | None = None,
        share: str | None = None,
    ) -> None:
        self.latents, self.text, self.variants = latents, text is True, variants
        self.folder, self.share = folder, share
        self._latents = self._store("latents")
        self._texts = self._store("texts")
        self._vae_id = self._text_id = ""

    def corners(self, digest: str, resized: Size, bucket: Size, random_crop: bool) -> list[Corner]:
        """The cached crops of an image: determined by the image alone, so that runs with other seeds share them."""
        if not random_crop:
            return [crop_corner(resized, bucket)]
        return [crop_corner(resized, bucket, python_random(0, "crop", digest, v)) for v in range(self.variants)]

    def fill(
        self,
        jobs: Sequence[Job],
        family: Family,
        *,
        batch_size: AtLeastOne = 1,
        workers: Count | None = None,
        ranks: Ranks = ALONE,
    ) -> Filled:
        """Encodes what is missing, images of a bucket together; each of several processes its share, then all have all.

        batch_size: views encoded at once; workers: processes that decode images; None: chosen by the number of images.
        Raises a UserError on a full disk.
        """
        self._vae_id = family.vae_id
        _warn_of_damage(self._latents.verify())
        made, failed = 0, {}

        def encode(part: int, parts: int) -> Filled:
            return self._fill(range(part, len(jobs), parts), jobs, family, batch_size, workers)

        def left() -> bool:
            return any(self._missing(job) for position, job in enumerate(jobs) if position not in failed)

        for filled in _in_shares(ranks, self._latents, encode, left):
            made += filled.made
            failed.update(filled.failed)
        self._latents.seal()
        return Filled(made, failed)

    def _fill(
        self, positions: Iterable[int], jobs: Sequence[Job], family: Family, batch_size: int, workers: int | None
    ) -> Filled:
        """Encodes what is missing of the jobs at these positions, here and where machines share it."""
        positions = list(positions)
        self._latents.fetch(key for position in positions for key in self._keys(jobs[position]))
        todo = [position for position in positions if self._missing(jobs[position])]
        self._latents.check_room(sum(_least_bytes(jobs[position], family) for position in todo))
        failed: dict[int, str] = {}
        made = 0
        workers = (min(4, os.cpu_count() or 1) if len(todo) >= _MANY else 0) if workers is None else workers
        try:
            while todo:
                filled = self._encode_all(todo, jobs, family, batch_size, workers)
                failed.update(filled.failed)
                made += filled.made
                todo = [position for position in todo if position not in failed and self._missing(jobs[position])]
                if todo:  # other runs are encoding these, or have died
                    time.sleep(_PAUSE)
                workers = 0
        finally:
            self._latents.release()
        self._latents.share(key for position in positions for key in self._keys(jobs[position]))
        return Filled(made, failed)

    def _encode_all(
        self, todo: list[int], jobs: Sequence[Job], family: Family, batch_size: int, workers: int
    ) -> Filled:
        """Encodes what no other process does of the jobs at these positions."""
        failed: dict[int, str] = {}
        made = 0
        self._latents.close()  # before workers are forked
        loader = DataLoader(
            Decoding(jobs, self._claimed),
            batch_sampler=list(batches(jobs, todo, batch_size)),
            num_workers=workers,
            collate_fn=gather,
        )
        with progress("encoding images", len(todo), "images") as advance:
            with masked():
                decoding = iter(loader)
            for decoded in decoding:
                if decoded.pixels is not None:
                    self._encode(decoded, family)
                failed.update(decoded.failed)
                made += decoded.fresh
                advance(decoded.images)
        return Filled(made, failed)

    def lookup(self, digest: str, bucket: Size, resized: Size, view: View) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C, h, w) of a cached view's posterior, unscaled."""
        tensors = self._latents.get(_latent_key(self._vae_id, digest, bucket, resized, view))
        return tensors["mean"], tensors["std"]

    def fill_texts(
        self, captions: Iterable[str], family: Family, *, batch_size: AtLeastOne = 32, ranks: Ranks = ALONE
    ) -> None:
        """Encodes the captions that are missing, in the present precision; each of several processes its share, then
        all have all."""
        self._text_id = family.text_id + _autocast(family.device.type)
        _warn_of_damage(self._texts.verify())
        keys = {self._text_key(caption): caption for caption in captions}

        def encode(part: int, parts: int) -> None:
            self._fill_texts(dict([*keys.items()][part::parts]), family, batch_size)

        for _ in _in_shares(ranks, self._texts, encode, lambda: bool(self._texts.missing(keys))):
            pass
        self._texts.seal()

    def _fill_texts(self, keys: dict[bytes, str], family: Family, batch_size: int) -> None:
        """Encodes those of these captions that are missing, here and where machines share them."""
        self._texts.fetch(keys)
        todo = self._texts.missing(keys)
        with progress("encoding captions", len(todo), "captions") as advance, torch.no_grad():
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                text = family.encode_text([keys[key] for key in batch])
                self._texts.put({key: _text_row(text, row) for row, key in enumerate(batch)})
                advance(len(batch))
        self._texts.share(keys)

    def lookup_text(self, caption: str) -> Conditioning:
        """The cached states of a caption, hidden (1, T, D) without padding and pooled (1, D)."""
        tensors = self._texts.get(self._text_key(caption))
        return Conditioning(tensors["hidden"], tensors.get("pooled"))

    def _store(self, kind: str) -> Store:
        if self.latents != "disk":
            return InMemory()
        folder = cache_folder(self.folder) / kind
        return Shared(folder, f"{plain(self.share)}/{kind}") if self.share else OnDisk(folder)

    def _keys(self, job: Job) -> dict[bytes, View]:
        """The views of an image, by key."""
        return {_latent_key(self._vae_id, job.digest, job.bucket, job.resized, view): view for view in job.views}

    def _missing(self, job: Job) -> list[tuple[bytes, View]]:
        """Those of them that are not cached."""
        keys = self._keys(job)
        return [(key, keys[key]) for key in self._latents.missing(keys)]

    def _claimed(self, job: Job) -> list[tuple[bytes, View]]:
        """The same of those that no other process is encoding."""
        missing = dict(self._missing(job))
        return [(key, missing[key]) for key in self._latents.claim(missing)]

    def _encode(self, decoded: Decoded, family: Family) -> None:
        assert decoded.pixels is not None
        mean, std = family.encode_image(_scaled(decoded.pixels.to(family.device)))
        named = _kept({"mean": mean, "std": std})
        self._latents.put({key: row_of(named, row) for row, key in enumerate(decoded.keys)})

    def _text_key(self, caption: str) -> bytes:
        return _digest(f"text 1 {self._text_id} {caption}")


def _text_row(text: Conditioning, row: int) -> Tensors:
    """What is stored of a caption."""
    pooled = {} if text.pooled is None else {"pooled": text.pooled[row : row + 1]}
    return _kept({"hidden": text.by_caption()[row][None], **pooled})


def _autocast(device: str) -> str:
    """Which precision autocast computes in, where it is on: outputs depend on it."""
    return f" {torch.get_autocast_dtype(device)}" if torch.is_autocast_enabled(device) else ""


def _in_shares(ranks: Ranks, store: Store, encode: Callable[[int, int], T], left: Callable[[], bool]) -> Iterator[T]:
    """What `encode(part, parts)` returns in each process, for shares of the work until nothing of it is left."""
    shares = ranks.shares()
    for share in shares:
        yield from ranks.gather(encode(*share))
        store.exchange(ranks)
        if share == shares[-1] or not any(ranks.gather(left())):
            return


def _least_bytes(job: Job, family: Family) -> int:
    """Least disk space of an image's latents: mean and deviation in fp16."""
    width, height = job.bucket
    return len(job.views) * 2 * prod(family.latent_shape(height, width)) * 2


def _kept(tensors: Tensors) -> Tensors:
    """Tensors as they are stored; a convolution may give them in another memory layout."""
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _scaled(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 → (B, 3, H, W) in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).contiguous().float().div_(255).mul_(2).sub_(1)


def _latent_key(vae_id: str, digest: str, bucket: Size, resized: Size, view: View) -> bytes:
    (top, left), flip = view
    return _digest(
        f"latent 2 {vae_id} {digest} {bucket[0]} {bucket[1]} {resized[0]} {resized[1]} {top} {left} {flip:d}"
    )


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def _warn_of_damage(count: int) -> None:
    if count:
        log.warning("%d cache entries are damaged and are encoded again", count)
