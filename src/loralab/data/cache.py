"""Latents and text states that are computed once: in memory, or on disk for later runs.

A latent's key is a hash of everything that determines it: the image's bytes, the VAE's weights, the size it is resized
to, bucket, crop and flip. So no entry can be stale: a change gives another key. Mean and standard deviation of the
VAE's posterior are stored, not a sample of it.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from loralab.data import images
from loralab.data.geometry import Corner, Size, crop_corner
from loralab.data.images import ImageError
from loralab.data.shards import Damaged, Shards
from loralab.data.store import cache_folder
from loralab.errors import user_error
from loralab.files import digest_file
from loralab.places import existing
from loralab.progress import progress
from loralab.rng import python_random
from loralab.schema.ranges import AtLeastOne, Count, Repeats
from loralab.signals import masked
from loralab.types import Conditioning

if TYPE_CHECKING:
    from loralab.models.family import Family

log = logging.getLogger(__name__)

_MANY = 64
"""Number of images from which on workers are started to decode them."""

Tensors = dict[str, Tensor]


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
    variants: number of crops cached per image where crops are random. folder: null: that of data.cache_folder.
    """

    def __init__(
        self,
        latents: Literal["none", "memory", "disk"] = "none",
        text: bool = False,
        variants: Repeats = 1,
        folder: str | None = None,
    ) -> None:
        self.latents, self.text, self.variants, self.folder = latents, text, variants, folder
        self._latents = self._store("latents")
        self._texts = self._store("texts")
        self._vae_id = self._text_id = ""

    def corners(self, digest: str, resized: Size, bucket: Size, random_crop: bool) -> list[Corner]:
        """The cached crops of an image: determined by the image alone, so that runs with other seeds share them."""
        if not random_crop:
            return [crop_corner(resized, bucket)]
        return [crop_corner(resized, bucket, python_random(0, "crop", digest, v)) for v in range(self.variants)]

    def fill(
        self, jobs: Sequence[Job], family: Family, *, batch_size: AtLeastOne = 1, workers: Count | None = None
    ) -> Filled:
        """Encodes what is missing, images of a bucket together.

        batch_size: views encoded at once; workers: processes that decode images; None: chosen by the number of images.
        Raises a UserError on a full disk.
        """
        self._vae_id = family.vae_id
        _warn_of_damage(self._latents.verify())
        todo = [position for position, job in enumerate(jobs) if self._missing(job)]
        self._latents.check_room(sum(_least_bytes(jobs[position], family) for position in todo))
        failed: dict[int, str] = {}
        made = 0
        self._latents.close()  # before workers are forked
        workers = (min(4, os.cpu_count() or 1) if len(todo) >= _MANY else 0) if workers is None else workers
        loader = DataLoader(
            _Decoding(self, jobs),
            batch_sampler=list(_batches(jobs, todo, batch_size)),
            num_workers=workers,
            collate_fn=_gather,
        )
        with progress("encoding images", len(todo), "images") as advance:
            with masked():
                batches = iter(loader)
            for decoded in batches:
                if decoded.pixels is not None:
                    self._encode(decoded, family)
                failed.update(decoded.failed)
                made += decoded.fresh
                advance(decoded.images)
        self._latents.seal()
        return Filled(made, failed)

    def lookup(self, digest: str, bucket: Size, resized: Size, view: View) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C, h, w) of a cached view's posterior, unscaled."""
        tensors = self._latents.get(_latent_key(self._vae_id, digest, bucket, resized, view))
        return tensors["mean"], tensors["std"]

    def fill_texts(self, captions: Iterable[str], family: Family, *, batch_size: AtLeastOne = 32) -> None:
        """Encodes the captions that are missing."""
        self._text_id = family.text_id
        _warn_of_damage(self._texts.verify())
        keys = {self._text_key(caption): caption for caption in captions}
        todo = self._texts.missing(keys)
        with progress("encoding captions", len(todo), "captions") as advance, torch.no_grad():
            for start in range(0, len(todo), batch_size):
                batch = todo[start : start + batch_size]
                text = family.encode_text([keys[key] for key in batch])
                named = _kept({"hidden": text.hidden, **({} if text.pooled is None else {"pooled": text.pooled})})
                self._texts.put(
                    {key: {name: t[row : row + 1] for name, t in named.items()} for row, key in enumerate(batch)}
                )
                advance(len(batch))
        self._texts.seal()

    def lookup_text(self, caption: str) -> Conditioning:
        """The cached states of a caption, hidden (1, T, D) and pooled (1, D)."""
        tensors = self._texts.get(self._text_key(caption))
        return Conditioning(tensors["hidden"], tensors.get("pooled"))

    def _store(self, kind: str) -> Store:
        return _OnDisk(cache_folder(self.folder) / kind) if self.latents == "disk" else _InMemory()

    def _missing(self, job: Job) -> list[tuple[bytes, View]]:
        """The views of an image that are not cached, by key."""
        keys = {_latent_key(self._vae_id, job.digest, job.bucket, job.resized, view): view for view in job.views}
        return [(key, keys[key]) for key in self._latents.missing(keys)]

    def _encode(self, decoded: _Decoded, family: Family) -> None:
        assert decoded.pixels is not None
        mean, std = family.encode_image(_scaled(decoded.pixels.to(family.device)))
        named = _kept({"mean": mean, "std": std})
        self._latents.put({key: _row(named, row) for row, key in enumerate(decoded.keys)})

    def _text_key(self, caption: str) -> bytes:
        return _digest(f"text 1 {self._text_id} {caption}")


class _Decoded(NamedTuple):
    """Pixels of some images of one bucket."""

    keys: list[bytes]
    pixels: Tensor | None
    """(number of keys, H, W, 3) uint8; None where no image could be read."""
    images: int
    fresh: int
    """The number of images of which a view was missing."""
    failed: dict[int, str]


class _Decoding(Dataset):
    """Decodes images in worker processes, which check again what is missing: another run may have encoded it."""

    def __init__(self, cache: Cache, jobs: Sequence[Job]) -> None:
        self.cache, self.jobs = cache, jobs

    def __getitem__(self, position: int) -> tuple[int, list[bytes], list[np.ndarray], str | None]:
        job = self.jobs[position]
        missing = self.cache._missing(job)
        if not missing:
            return position, [], [], None
        try:
            rgb, _ = images.read(job.path)
            is_same = digest_file(job.path) == job.digest
        except ImageError as error:
            return position, [], [], str(error)
        except OSError as error:
            return position, [], [], f"cannot be read ({error.strerror})"
        if not is_same:  # other pixels would be stored under the key of the old ones
            return position, [], [], "was changed after the run had started; start the run again to train on it"
        views = [images.fit(rgb, job.resized, job.bucket, view.corner) for _, view in missing]
        sides = [pixels[:, ::-1] if view.flip else pixels for pixels, (_, view) in zip(views, missing, strict=True)]
        return position, [key for key, _ in missing], sides, None


def _gather(decoded: list[tuple[int, list[bytes], list[np.ndarray], str | None]]) -> _Decoded:
    views = [view for _, _, views, _ in decoded for view in views]
    return _Decoded(
        keys=[key for _, keys, _, _ in decoded for key in keys],
        pixels=torch.from_numpy(np.stack(views)) if views else None,
        images=len(decoded),
        fresh=sum(bool(keys) for _, keys, _, _ in decoded),
        failed={position: error for position, _, _, error in decoded if error},
    )


def _batches(jobs: Sequence[Job], todo: Sequence[int], size: int) -> Iterator[list[int]]:
    """Batches of positions: images of one bucket, with about `size` views together."""
    # runs that start together begin at different positions, so that they share the work
    start = os.getpid() * 7919 % max(1, len(todo))
    by_bucket: dict[Size, list[int]] = {}
    for position in (*todo[start:], *todo[:start]):
        by_bucket.setdefault(jobs[position].bucket, []).append(position)
    for positions in by_bucket.values():
        step = max(1, size // len(jobs[positions[0]].views))
        yield from (positions[at : at + step] for at in range(0, len(positions), step))


class Store(Protocol):
    """Named tensors by key."""

    def missing(self, keys: Iterable[bytes]) -> list[bytes]: ...
    def put(self, records: Mapping[bytes, Tensors]) -> None: ...
    def get(self, key: bytes) -> Tensors: ...
    def verify(self) -> int:
        """Removes damaged entries; returns their number."""
        ...

    def check_room(self, size: int) -> None:
        """Raises a UserError if there is no space for so many bytes."""

    def close(self) -> None:
        """Called before processes are forked."""

    def seal(self) -> None:
        """Called instead of close when all entries were put."""


class _InMemory:
    """Once sealed, tensors of one shape are rows of one shared block, which worker processes do not copy."""

    def __init__(self) -> None:
        self._loose: dict[bytes, Tensors] = {}
        self._blocks: list[Tensors] = []
        self._rows: dict[bytes, tuple[int, int]] = {}

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        return [key for key in keys if key not in self._rows and key not in self._loose]

    def put(self, records: Mapping[bytes, Tensors]) -> None:
        self._loose.update(records)

    def get(self, key: bytes) -> Tensors:
        if key in self._loose:
            return self._loose[key]
        block, row = self._rows[key]
        return _row(self._blocks[block], row)

    def verify(self) -> int:
        return 0

    def check_room(self, size: int) -> None:
        pass

    def seal(self) -> None:
        by_shape: dict[tuple, list[bytes]] = {}
        for key, tensors in self._loose.items():
            by_shape.setdefault(tuple((name, t.shape) for name, t in tensors.items()), []).append(key)
        for keys in by_shape.values():
            loose = [self._loose.pop(key) for key in keys]
            block = {name: torch.stack([tensors[name] for tensors in loose]).share_memory_() for name in loose[0]}
            self._rows.update({key: (len(self._blocks), row) for row, key in enumerate(keys)})
            self._blocks.append(block)

    def close(self) -> None:
        pass


class _OnDisk:
    """Each record is a small safetensors file within a shard."""

    def __init__(self, folder: Path) -> None:
        self._shards = Shards(folder)
        self.missing, self.verify, self.close = self._shards.missing, self._shards.verify, self._shards.close
        self.seal = self.close

    def check_room(self, size: int) -> None:
        place = self._shards.folder
        if size > (free := shutil.disk_usage(existing(place)).free):
            found = f"latents need {size / 1e6:.1f} MB in {place}, {free / 1e6:.1f} MB are free"
            raise user_error("data.cache.folder", found, "free some space, use another folder, or data/cache=memory")

    def put(self, records: Mapping[bytes, Tensors]) -> None:
        self._shards.put({key: save(tensors) for key, tensors in records.items()})

    def get(self, key: bytes) -> Tensors:
        try:
            return load(self._shards.get(key))
        except (Damaged, KeyError) as error:
            found = f"{error} was damaged" if isinstance(error, Damaged) else f"{self._shards.folder} was emptied"
            remedy = "run again with resume=auto to continue from the last state; what is missing is encoded anew"
            raise user_error("data.cache", f"{found} while it was in use", remedy) from None


def _least_bytes(job: Job, family: Family) -> int:
    """Least disk space of an image's latents: mean and deviation in fp16."""
    width, height = job.bucket
    return len(job.views) * 2 * prod(family.latent_shape(height, width)) * 2


def _kept(tensors: Tensors) -> Tensors:
    """Tensors as they are stored; a convolution may give them in another memory layout."""
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def _row(tensors: Tensors, row: int) -> Tensors:
    return {name: tensor[row] for name, tensor in tensors.items()}


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
