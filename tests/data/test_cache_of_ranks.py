"""A cache that several processes fill together: each image is encoded once, and all have all of them."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from loralab.data.cache import Cache
from loralab.data.decoding import Job
from loralab.ranks import Ranks
from loralab.types import Conditioning
from tests.support.latents import CENTRE, make_jobs
from tests.support.processes import together

TIMEOUT = 1.0
"""Seconds of an exchange of gradients."""


class Slow:
    """Encodes by pooling; in the second process each batch takes longer than an exchange may."""

    vae_id, text_id, device = "vae", "text", torch.device("cpu")

    def __init__(self, rank: int) -> None:
        self.rank, self.images, self.captions = rank, 0, 0

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        return 3, height // 8, width // 8

    def encode_image(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(2.0 * TIMEOUT * self.rank)
        self.images += len(pixels)
        mean = torch.nn.functional.avg_pool2d(pixels, 8)
        return mean, mean.abs()

    def encode_text(self, captions: list[str]) -> Conditioning:
        self.captions += len(captions)
        return Conditioning(torch.tensor([[[float(len(caption))]] for caption in captions]))


def fill(rank: int, world: int, where: str, jobs: list[Job], folders: list[Path]) -> dict[str, Any]:
    """In one of the processes: connects them as a run does, fills the cache, and looks everything up."""
    from lightning import Trainer
    from lightning.pytorch.strategies import DDPStrategy

    strategy = DDPStrategy(timeout=timedelta(seconds=TIMEOUT))
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    ranks = Ranks.join(Trainer(accelerator="cpu", devices=world, strategy=strategy, **off))
    assert (ranks.rank, ranks.world) == (rank, world)
    if where == "machines":  # each sees its own folder only, as with one device on each
        ranks = Ranks(rank, world, 0, 1, ranks.group)
    cache, encoder = Cache("memory" if where == "memory" else "disk", True, folder=str(folders[rank])), Slow(rank)
    made, failed = cache.fill(jobs, encoder, batch_size=2, workers=0, ranks=ranks)  # type: ignore[arg-type]
    cache.fill_texts(["a", "bb", "ccc"], encoder, ranks=ranks)  # type: ignore[arg-type]
    means = [cache.lookup(job.digest, job.bucket, job.resized, CENTRE[0])[0].mean().item() for job in jobs[:-1]]
    texts = [cache.lookup_text(caption).hidden.item() for caption in ("a", "bb", "ccc")]
    ranks.leave()
    return {
        "made": made,
        "failed": failed,
        "means": means,
        "texts": texts,
        "images": encoder.images,
        "captions": encoder.captions,
    }


@pytest.mark.parametrize(("where", "times"), [("memory", 1), ("disk", 1), ("machines", 2)])
def test_each_image_is_encoded_once_however_long_it_takes(where: str, times: int, tmp_path: Path) -> None:
    """One that cannot be read is known to all. Machines that see only their own folder each encode all."""
    jobs = make_jobs(tmp_path / "images", 5)
    Path(jobs[-1].path).write_bytes(b"damaged")
    folders = [tmp_path / (f"cache{rank}" if where == "machines" else "cache") for rank in range(2)]
    first, second = together(tmp_path, fill, where, jobs, folders)
    assert (first["means"], first["texts"]) == (second["means"], second["texts"])
    assert first["texts"] == [1, 2, 3]
    assert first["failed"].keys() == second["failed"].keys() == {4}
    assert first["images"] + second["images"] == first["made"] == second["made"] == 4 * times
    assert first["captions"] + second["captions"] == 3 * times
    assert min(first["images"], second["images"]) > 0
