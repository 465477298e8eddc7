"""The data: index, sampler, latent cache and loader, for growing numbers of images, as JSON: python benchmarks/data.py

CPU seconds are given beside wall-clock seconds: on a busy machine only they can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
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

from loralab.at_least import at_least
from loralab.data.buckets import Buckets
from loralab.data.epoch.draws import BatchSize, Draws
from loralab.data.epoch.sampler import BucketSampler
from loralab.data.folders import Folder
from loralab.data.index.index import scan
from loralab.progress import progress
from loralab.types import Item

LINKS = 30_000
"""Hard links per file: file systems have a limit."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=at_least(1), nargs="*", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", help="folder for the generated files (default: the system's temporary folder)")
    parser.add_argument("--pictures", type=at_least(0), default=64, help="number of images to encode; 0: none")
    parser.add_argument("--resolution", type=at_least(64), default=512)
    parser.add_argument("--batch-size", type=at_least(1), default=4)
    parser.add_argument("--workers", type=at_least(0), default=2)
    parser.add_argument("--rounds", type=at_least(1), default=3, help="measurements of the cache and the VAE")
    parser.add_argument("--base", help="a Stable Diffusion 1.x model (default: the embedded one)")
    parser.add_argument("--vae", help="another VAE: a file or folder")
    parser.add_argument("--device", default="cpu")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds, images per second and mebibytes."""
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        return {
            "cores": os.cpu_count(),
            "load": [round(load, 1) for load in os.getloadavg()],
            "index": [index_growth(Path(scratch) / str(count), count) for count in args.images],
            "sampler": [{"images": count, **_apart("sampler_once", count)} for count in args.images],
            **(encoding(Path(scratch) / "encoding", args) if args.pictures else {}),
        }


def index_growth(folder: Path, count: int) -> dict[str, Any]:
    """Cold: every header and caption is read; warm: nothing has changed."""
    _many_files(folder / "images", count)
    runs = {name: _apart("index_once", folder / "images", folder / "cache") for name in ("cold", "warm")}
    database = sum(file.stat().st_size for file in (folder / "cache").glob("*.sqlite"))
    return {"images": count, **runs, "database_mb": round(database / 2**20, 1)}


def index_once(folder: str, cache: str) -> dict[str, Any]:
    """One scan."""
    taken, index = _timed(lambda: scan([Folder(folder)], cache))
    return {**taken.figures(), "images": len(index)}


def sampler_once(count: str) -> dict[str, Any]:
    """Plans the epochs of so many images, and iterates one epoch in batches of four."""
    planning, draws = _timed(lambda: Draws(_Made(int(count)), [(512, 512)], Buckets(), BatchSize(4)))
    epoch, batches = _timed(lambda: sum(1 for _ in BucketSampler(draws, 0)))
    return {"plan": planning.figures(), "epoch": epoch.figures(), "batches": batches}


def _apart(name: str, *arguments: object) -> dict[str, Any]:
    """The result of a function of this module, run in a process of its own so that peak memory is its alone."""
    command = [sys.executable, __file__, name, *map(str, arguments)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def _peak() -> int | None:
    """Peak memory of this process in mebibytes (getrusage would include the process that started it)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None  # not on Linux
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def _many_files(folder: Path, count: int) -> None:
    """Images with captions, a thousand per folder: hard links to a few files."""
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

    number: int

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, position: int) -> Item:  # type: ignore[override]
        width, height = (300 + position * prime % 1700 for prime in (7919, 104729))
        return Item(f"{position}.png", width, height, "a star")


def encoding(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Speed of the VAE alone, of filling the cache with the same images, of the loader on that cache, and of a step."""
    import torch

    from loralab.bench.ways import TINY
    from loralab.models.families.sd import load

    family = load(args.base or str(TINY), vae=args.vae)
    family.denoiser.to(args.device)
    family.vae.to(args.device)
    _pictures(folder / "images", args.pictures, args.resolution)
    batches = [batch.pixels for batch in _module(folder, family, args, "none", 0).train_dataloader()]
    encode = torch.no_grad()(lambda pixels: family.vae.encode(pixels.to(args.device, family.vae.dtype)).latent_dist)
    encode(batches[0])  # the first call chooses its kernels
    rounds = []
    for number in range(args.rounds):
        bare, _ = _timed(lambda: [encode(pixels).mean.cpu() for pixels in batches])
        module = _module(folder, family, args, "disk", args.workers, f"cache {number}")
        filling, _ = _timed(module.train_dataloader)
        rounds.append((bare, filling))
    rates = {name: [args.pictures / times[i].seconds for times in rounds] for i, name in enumerate(("vae", "cache"))}
    return {
        "resolution": args.resolution,
        **{f"{name}_images_per_second": round(max(found), 2) for name, found in rates.items()},
        "cache_share_of_vae_speed": _median(bare.seconds / filling.seconds for bare, filling in rounds),
        "cache_share_of_vae_speed_by_cpu_time": _median(bare.cpu / filling.cpu for bare, filling in rounds),
        "loader": [
            {"latents": latents, "workers": workers, **_loading(folder, family, args, latents, workers)}
            for latents in ("disk", "memory")
            for workers in (0, args.workers)
        ],
        "step_samples_per_second": _training(folder / "training", args),
    }


def _pictures(folder: Path, count: int, resolution: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        blobs = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        size = (resolution * 2, resolution * 3 // 2)
        Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg", quality=92)


def _module(
    folder: Path, family: Any, args: argparse.Namespace, latents: Any, workers: int, cache: str = "cache 0"
) -> Any:
    from loralab.data.augment import Augment
    from loralab.data.cache import Cache
    from loralab.data.captions import Captions
    from loralab.data.module import DataModule
    from loralab.data.validation import Validation

    module = DataModule(
        0,
        folder=str(folder / "images"),
        resolution=args.resolution,
        batch_size=args.batch_size,
        num_workers=workers,
        persistent_workers=True,
        cache_folder=str(folder / "cache"),
        buckets=Buckets(),
        captions=Captions(),
        augment=Augment(),
        cache=Cache(latents, folder=str(folder / cache)),
        validation=Validation(),
    )
    module.attach(family)
    return module


def _loading(folder: Path, family: Any, args: argparse.Namespace, latents: str, workers: int) -> dict[str, float]:
    """Speed of epochs from a full cache, after one that starts the workers."""
    loader = _module(folder, family, args, latents, workers).train_dataloader()
    _ = sum(1 for _ in loader)
    taken, samples = _timed(lambda: sum(len(batch) for batch in _epochs(loader, 10)))
    return {"samples_per_second": round(samples / taken.seconds, 1)}


def _training(folder: Path, args: argparse.Namespace) -> float:
    """Samples per second that a training of the embedded model, the fastest there is, consumes."""
    from loralab.bench import train, ways

    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    words = [f"--resolution={args.resolution}", f"--batch-size={args.batch_size}", "--steps=5", "--warmup=2"]
    folder.mkdir()
    ways.prepare(folder, "tiny", args.resolution)
    return train.ours(parser.parse_args(words), folder)["images_per_second"]


def _epochs(loader: Any, count: int) -> Iterator[Any]:
    for _ in range(count):
        yield from loader


@dataclass(frozen=True)
class _Time:
    seconds: float
    cpu: float
    """Seconds on all cores, of this process and its finished child processes."""

    def figures(self) -> dict[str, float | None]:
        return {"seconds": round(self.seconds, 2), "cpu_seconds": round(self.cpu, 2), "peak_mb": _peak()}


def _timed(work: Callable[[], Any]) -> tuple[_Time, Any]:
    start, cpu = time.perf_counter(), _cpu()
    result = work()
    return _Time(time.perf_counter() - start, _cpu() - cpu), result


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _median(ratios: Iterator[float]) -> float:
    return round(statistics.median(ratios), 3)


def main(words: list[str]) -> None:
    """Measures everything; with the name of a function first, that one alone, in this process."""
    alone = {"index_once": index_once, "sampler_once": sampler_once}.get(words[0] if words else "")
    if alone is None:
        parser = argparse.ArgumentParser(description=__doc__)
        add_arguments(parser)
        print(json.dumps(measure(parser.parse_args(words)), indent=1))
    else:
        print(json.dumps(alone(*words[1:])))


if __name__ == "__main__":
    main(sys.argv[1:])
