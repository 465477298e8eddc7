"""Images to encode, and a VAE that counts what it encodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from loralab.data.cache import Cache
from loralab.data.decoding import Job, View
from loralab.files import digest_file

CENTRE = (View((0, 0)),)


class Encoder:
    """A model's VAE, counting what it is asked to encode."""

    def __init__(self, family) -> None:
        self.family, self.vae_id, self.text_id, self.device = family, family.vae_id, family.text_id, family.device
        self.latent_shape = family.latent_shape
        self.batches: list[tuple[int, ...]] = []
        self.captions: list[str] = []

    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.batches.append(tuple(pixels.shape))
        return self.family.encode_image(pixels)

    def encode_text(self, captions: list[str]):
        self.captions += captions
        return self.family.encode_text(captions)

    @property
    def encoded(self) -> int:
        return sum(batch[0] for batch in self.batches)


def make_jobs(folder: Path, count: int, views: tuple[View, ...] = CENTRE) -> list[Job]:
    folder.mkdir(exist_ok=True)
    return [job_of(noise(folder / f"{number}.png", number), number, views) for number in range(count)]


def noise(path: Path, seed: int) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 80, 3), np.uint8)).save(path)
    return path


def job_of(path: Path, number: int, views: tuple[View, ...] = CENTRE) -> Job:
    bucket = (64, 64) if number % 2 else (80, 64)
    return Job(str(path), digest_file(path), bucket, (80, 64), views)


def disk(tmp_path: Path) -> Cache:
    return Cache("disk", folder=str(tmp_path / "cache"))
