"""Training: seconds per step and memory, compared with a plain diffusers and PEFT loop on the same model."""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from loralab.bench.at_least import at_least
from loralab.bench.random_base import random_base
from loralab.errors import UserError, user_error
from loralab.models.registry import FAMILIES
from loralab.packages import missing

TINY = Path(__file__).resolve().parents[1] / "assets" / "tiny"
MODELS = {"tiny": "tiny", **{name: row.options[0] for name, row in reversed(FAMILIES.items())}}
WAYS = ("loralab", "plain")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", help="further settings for the run, as for train.py")
    parser.add_argument(
        "--shape", choices=MODELS, default="tiny", help="tiny (embedded), or random weights at full size"
    )
    parser.add_argument("--resolution", type=at_least(64), help="pixels (default: 64 for tiny, 256 for others)")
    parser.add_argument("--batch-size", type=at_least(1), default=1)
    parser.add_argument("--rank", type=at_least(1), default=16)
    parser.add_argument("--precision", choices=("32-true", "16-mixed", "bf16-mixed"), default="32-true")
    parser.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="dtype of the frozen weights")
    parser.add_argument("--targets", choices=("both", "unet_only"), default="both")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--steps", type=at_least(1), default=20, help="steps that are measured")
    parser.add_argument("--warmup", type=at_least(1), default=3, help="steps before them that are not measured")
    parser.add_argument("--rounds", type=at_least(1), default=1, help="runs of each, in turn; their medians count")
    parser.add_argument("--folder", help="folder for a full-size model (default: the system's temporary folder)")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # internal: for the subprocess
    parser.add_argument("--scratch", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=float, help=argparse.SUPPRESS)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of each way (see clock), and the ratio of loralab's seconds per step to the plain loop's.

    Of several rounds these are medians; see `compared`.
    """
    args.resolution = args.resolution or (64 if args.shape == "tiny" else 256)
    if absent := list(missing("loralab bench train", "peft")):
        raise UserError(*absent)
    if args.way:
        return _plain(args)
    if args.folder is not None and not Path(args.folder).is_dir():
        raise user_error("--folder", f"'{args.folder}' is not a folder", "give an existing folder")
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        prepare(Path(scratch), args.shape, args.resolution)
        rounds = [_round(args, Path(scratch), number) for number in range(args.rounds)]
    settings = {key: value for key, value in vars(args).items() if key in vars(_defaults())}
    return {**settings, **compared(rounds, _peak(args))}


def _round(args: argparse.Namespace, scratch: Path, number: int) -> dict[str, dict[str, float]]:
    """The figures of each way, measured one after the other; which is first changes from round to round."""
    run = {"loralab": ours, "plain": _theirs}
    return {way: run[way](args, scratch) for way in (WAYS if number % 2 == 0 else WAYS[::-1])}


def compared(rounds: list[dict[str, dict[str, float]]], peak: float) -> dict[str, Any]:
    """The median of each figure, and of the ratio of the seconds per step within a round, with the lowest and the
    highest ratio: two ways that are measured close together in time had the same machine.

    peak: floating-point operations a second that the device can do; those of a step are counted in the plain loop.
    """
    found = {way: {name: median(each[way][name] for each in rounds) for name in rounds[0][way]} for way in WAYS}
    flops = found["plain"].pop("flops")
    for figures in found.values():
        figures["share_of_peak"] = round(flops / figures["seconds_per_step"] / peak, 3)
    ratios = [each["loralab"]["seconds_per_step"] / each["plain"]["seconds_per_step"] for each in rounds]
    facts = {"tflop_per_step": round(flops / 1e12, 6), "peak_tflops": round(peak / 1e12, 4)}
    spread = [round(min(ratios), 3), round(max(ratios), 3)]
    return {**found, **facts, "ratio": round(median(ratios), 3), "ratios": spread}


def _peak(args: argparse.Namespace) -> float:
    """The peak of the dtype that the products are computed in."""
    import torch

    from loralab.bench.peak import peak_flops
    from loralab.models.load import DTYPES

    mixed = {"16-mixed": "fp16", "bf16-mixed": "bf16"}
    return peak_flops(torch.device(args.device), DTYPES[mixed.get(args.precision) or args.dtype])


def prepare(scratch: Path, shape: str, resolution: int) -> None:
    """Writes the base model, if it is not the embedded one, and images with captions."""
    import numpy as np
    from PIL import Image

    if shape != "tiny":
        random_base(scratch / "base", shape, TINY / "tokenizer")
    (scratch / "pictures").mkdir()
    numbers = random.Random(0)
    for i in range(8):
        pixels = np.frombuffer(numbers.randbytes(3 * resolution**2), np.uint8).reshape(resolution, resolution, 3)
        Image.fromarray(pixels).save(scratch / "pictures" / f"{i}.png")
        (scratch / "pictures" / f"{i}.txt").write_text("a red star on a blue ground")


def base(scratch: Path, shape: str) -> Path:
    return TINY if shape == "tiny" else scratch / "base"


def settings(args: argparse.Namespace, scratch: Path) -> list[str]:
    """The overrides of a run on what `prepare` made, latents cached."""
    return [
        f"model={MODELS[args.shape]}",
        f"model.base={base(scratch, args.shape)}",
        f"model.resolution={args.resolution}",
        f"model.dtype={args.dtype}",
        "data=folder",
        f"data.folder={scratch / 'pictures'}",
        f"data.batch_size={args.batch_size}",
        f"data.cache_folder={scratch / 'cache'}",
        "data.buckets.enabled=false",
        "data.cache.latents=memory",
        f"adapter.rank={args.rank}",
        f"targets={args.targets}",
        f"trainer.accelerator={'gpu' if args.device == 'cuda' else args.device}",
        f"trainer.precision={args.precision}",
        f"trainer.max_steps={args.steps + args.warmup}",
        "callbacks.samples.enabled=false",
        "callbacks.progress.enabled=false",
    ]


def ours(args: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """The train command itself, with a Clock callback."""
    figures = scratch / "figures.json"
    clock = {"_target_": "loralab.bench.clock.Clock", "file": figures, "warmup": args.warmup, "started": time.time()}
    words = [*settings(args, scratch), f"hydra.run.dir={tempfile.mkdtemp(dir=scratch)}/run", *args.overrides]
    words += [f"+callbacks.clock.{key}={value}" for key, value in clock.items()]
    command = [sys.executable, "-m", "loralab.train", *words]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False, cwd=scratch).returncode or not figures.is_file():
        raise user_error("loralab train", "failed", "see its messages above")
    return json.loads(figures.read_text())


def _theirs(args: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """The plain loop, in a process of its own."""
    given = {key: value for key, value in vars(args).items() if key in vars(_defaults()) and key != "overrides"}
    words = [f"--{key.replace('_', '-')}={value}" for key, value in given.items() if value is not None]
    words += ["--way=plain", f"--scratch={scratch}", f"--started={time.time()}"]
    command = [sys.executable, "-m", "loralab.cli", "bench", "train", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, cwd=scratch)
    if done.returncode:
        raise user_error("the plain loop", "failed", "see its messages above")
    return json.loads(done.stdout)


def _defaults() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    settings = parser.parse_args([])
    for hidden in ("way", "scratch", "started", "folder", "rounds"):
        delattr(settings, hidden)
    return settings


def _plain(args: argparse.Namespace) -> dict[str, Any]:
    from loralab.bench.plain import Plain

    return Plain(base(Path(args.scratch), args.shape), args).run(args.steps + args.warmup)
