"""The data side: index, sampler, latent cache and loader, at growing numbers of images."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from loralab.data.buckets import Buckets
from loralab.data.draws import BatchSize, Draws
from loralab.data.index import Folder, scan
from loralab.data.sampler import BucketSampler
from loralab.progress import progress
from loralab.types import Item

LINKS = 30_000
"""Names that one file is given: file systems have a limit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", help="where the files are made (default: the system's place for such)")
    parser.add_argument("--pictures", type=int, default=64, help="images that are encoded")
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--base", help="a Stable Diffusion 1.x model (default: the embedded one)")
    parser.add_argument("--vae", help="another VAE: a file or folder")
    parser.add_argument("--device", default="cpu")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds, images a second and mebibytes."""
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        return {
            "cores": os.cpu_count(),
            "index": [index_growth(Path(scratch) / str(count), count) for count in args.images],
            "sampler": [sampler_growth(count) for count in args.images],
            **encoding(Path(scratch) / "encoding", args),
        }


def index_growth(folder: Path, count: int) -> dict[str, Any]:
    """Cold: every header and caption is read; warm: nothing has changed. Each in a process of its own."""
    _many_files(folder / "images", count)
    command = [sys.executable, "-m", "loralab.bench.data", str(folder / "images"), str(folder / "cache")]
    runs = {}
    for name in ("cold", "warm"):
        result = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        runs[name] = json.loads(result.stdout)
    database = sum(file.stat().st_size for file in (folder / "cache").glob("*.sqlite"))
    return {"images": count, **runs, "database_mb": round(database / 2**20, 1)}


def index_once(folder: str, cache: str) -> dict[str, Any]:
    """One scan, of a process that does nothing else."""
    import resource

    before = time.process_time()
    seconds, index = _timed(lambda: scan([Folder(folder)], cache))
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(time.process_time() - before, 2),
        "peak_mb": round(used.ru_maxrss / 2**10),  # Linux counts in KiB
        "images": len(index),
    }


def _many_files(folder: Path, count: int) -> None:
    """Images with captions, a thousand a folder: a few files under many names."""
    folder.mkdir(parents=True)
    sources: list[Path] = []
    inner = folder
    with progress("making files", count, "images") as advance:
        for number in range(count):
            if number % LINKS == 0:
                sources = [folder.parent / f"{number}{suffix}" for suffix in (".jpg", ".txt")]
                Image.new("RGB", (640 + number // LINKS, 480)).save(sources[0])
                sources[1].write_text("a star, blue background, two moons, painted with a broad brush")
            if number % 1000 == 0:
                inner = folder / f"1_part {number // 1000}"
                inner.mkdir()
                advance(min(1000, count - number))
            for source in sources:
                os.link(source, inner / f"{number}{source.suffix}")


@dataclass
class _Made(Sequence):
    """Items of many shapes, made when asked for."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> Item:  # type: ignore[override]
        shape = random.Random(position)
        return Item(f"{position}.png", shape.randrange(300, 2000), shape.randrange(300, 2000), "a star")


def sampler_growth(count: int) -> dict[str, Any]:
    """Planning the epochs of so many images, and going through one epoch in batches of four."""
    planning, draws = _timed(lambda: Draws(_Made(count), [(512, 512)], Buckets(), BatchSize(4)))
    epoch, batches = _timed(lambda: sum(1 for _ in BucketSampler(draws, 0)))
    return {"images": count, "plan_seconds": round(planning, 2), "epoch_seconds": round(epoch, 2), "batches": batches}


def encoding(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The VAE alone on decoded batches, the cache over the same images, and the loader from the full cache."""
    from loralab.models.sd import load

    family = load(args.base or str(Path(__file__).parents[1] / "assets" / "tiny"), vae=args.vae)
    family.unet.to(args.device)
    family.vae.to(args.device)
    _pictures(folder / "images", args.pictures, args.resolution)
    bare = _bare(folder, family, args)
    module = _module(folder, family, args, "disk", args.workers)
    fill, _ = _timed(module.train_dataloader)
    loaders = [
        {
            "latents": latents,
            "workers": workers,
            "samples_per_second": _loader_speed(folder, family, args, latents, workers),
        }
        for latents in ("disk", "memory")
        for workers in (0, args.workers)
    ]
    count = args.pictures
    return {
        "resolution": args.resolution,
        "vae_images_per_second": round(count / bare, 2),
        "cache_images_per_second": round(count / fill, 2),
        "cache_share_of_vae_speed": round(bare / fill, 3),
        "loader": loaders,
    }


def _pictures(folder: Path, count: int, resolution: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        blobs = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        size = (resolution * 2, resolution * 3 // 2)
        Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=92)


def _module(folder: Path, family: Any, args: argparse.Namespace, latents: Any, workers: int) -> Any:
    from loralab.data.augment import Augment
    from loralab.data.cache import Cache
    from loralab.data.captions import Captions
    from loralab.data.module import DataModule
    from loralab.data.validation import Validation

    return DataModule(
        family,
        0,
        folder=str(folder / "images"),
        resolution=args.resolution,
        batch_size=args.batch_size,
        num_workers=workers,
        cache_folder=str(folder / "cache"),
        buckets=Buckets(),
        captions=Captions(),
        augment=Augment(),
        cache=Cache(latents, folder=str(folder / "cache")),
        validation=Validation(),
    )


def _bare(folder: Path, family: Any, args: argparse.Namespace) -> float:
    """Seconds that the VAE takes for the batches, decoded beforehand."""
    batches = [batch.pixels for batch in _module(folder, family, args, "none", 0).train_dataloader()]
    family.encode_image(batches[0])  # the first call chooses its kernels
    return _timed(lambda: [family.encode_image(pixels)[0].cpu() for pixels in batches])[0]


def _loader_speed(folder: Path, family: Any, args: argparse.Namespace, latents: str, workers: int) -> float:
    loader = _module(folder, family, args, latents, workers).train_dataloader()
    seconds, samples = _timed(lambda: sum(len(batch) for batch in _epochs(loader, 5)))
    return round(samples / seconds, 1)


def _epochs(loader: Any, count: int) -> Iterator[Any]:
    for _ in range(count):
        yield from loader


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    print(json.dumps(index_once(*sys.argv[1:])))
