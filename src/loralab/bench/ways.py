"""The two ways of training that are compared: loralab's own command, and a plain loop; each in a process of its own."""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from loralab.at_least import at_least
from loralab.bench.random_base import random_base
from loralab.errors import UserError, user_error
from loralab.models.registry import FAMILIES
from loralab.packages import missing

TINY = Path(__file__).resolve().parents[1] / "assets" / "tiny"
MODELS = {"tiny": "tiny", **{name: row.options[0] for name, row in reversed(FAMILIES.items())}}
IMAGES = 8
CAPTION = "a red star on a blue ground"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What is trained, and how."""
    parser.add_argument("overrides", nargs="*", help="settings for loralab's run alone, as for train.py")
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
    parser.add_argument("--rounds", type=at_least(1), default=1, help="runs of each, in turn; their medians count")
    parser.add_argument(
        "--folder",
        help="an existing folder in which the full-size model is kept for the next time (default: a new one)",
    )


def check(args: argparse.Namespace) -> None:
    """Fills in what was left open; raises a UserError where these arguments cannot be measured."""
    args.resolution = args.resolution or (64 if args.shape == "tiny" else 256)
    if absent := list(missing("loralab bench", "peft")):
        raise UserError(*absent)
    if args.resolution % 8:
        raise user_error("--resolution", f"invalid value {args.resolution}", "valid: multiples of 8")
    if args.folder is not None and not Path(args.folder).is_dir():
        raise user_error("--folder", f"'{args.folder}' is not a folder", "give an existing folder")
    if args.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise user_error("--device", "no CUDA device found", "use --device cpu")
    if taken := [o for o in args.overrides if o.lstrip("+~").partition("=")[0] in OWN]:
        raise user_error(taken[0], "is set by the benchmark itself", "use its flags: --steps, --batch-size, …")


OWN = ("trainer.max_steps", "trainer.max_epochs", "data.batch_size", "model", "model.base", "trainer.profiler")
"""Settings by which a benchmark would measure something else than it says."""


@contextmanager
def scratch(args: argparse.Namespace) -> Iterator[Path]:
    """A folder with the base model and the images, which is removed at the end."""
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        base = None if args.folder is None else Path(args.folder) / f"random-{args.shape}"
        prepare(Path(folder), args.shape, args.resolution, max(IMAGES, args.batch_size), base=base)
        yield Path(folder)


def prepare(
    scratch: Path,
    shape: str,
    resolution: int,
    images: int = IMAGES,
    caption: str = CAPTION,
    base: Path | None = None,
) -> None:
    """Writes the base model, if it is not the embedded one and not there, and images of noise with captions.

    base: where the model is kept, outside of `scratch`.
    """
    import numpy as np
    from PIL import Image

    if base is not None:
        (scratch / "base").symlink_to(base.absolute())
    if shape != "tiny" and not (base is not None and base.is_dir()):
        made = get_context("spawn").Process(  # a process gives its memory back
            target=random_base, args=((scratch / "base").resolve(), shape, TINY / "tokenizer")
        )
        made.start()
        made.join()
        assert made.exitcode == 0
    (scratch / "pictures").mkdir()
    numbers = random.Random(0)
    for i in range(images):
        pixels = np.frombuffer(numbers.randbytes(3 * resolution**2), np.uint8).reshape(resolution, resolution, 3)
        Image.fromarray(pixels).save(scratch / "pictures" / f"{i}.png")
        (scratch / "pictures" / f"{i}.txt").write_text(caption)


def base(scratch: Path, shape: str) -> Path:
    return TINY if shape == "tiny" else scratch / "base"


def ours(args: argparse.Namespace, scratch: Path, steps: int, *overrides: str) -> Path:
    """Trains by the train command on what `prepare` made, latents cached; returns the run's folder."""
    folder = Path(tempfile.mkdtemp(dir=scratch)) / "run"
    words = [
        f"model={MODELS[args.shape]}",
        f"model.base={base(scratch, args.shape)}",
        f"model.resolution={args.resolution}",
        f"model.dtype={args.dtype}",
        "data=folder",
        f"data.folder={scratch / 'pictures'}",
        f"data.batch_size={args.batch_size}",
        f"data.cache_folder={scratch / 'cache'}",
        "data.buckets.enabled=false",
        f"adapter.rank={args.rank}",
        f"targets={args.targets}",
        f"trainer.accelerator={'gpu' if args.device == 'cuda' else args.device}",
        f"trainer.precision={args.precision}",
        f"trainer.max_steps={steps}",
        "callbacks.samples.enabled=false",
        "callbacks.progress.enabled=false",
        f"hydra.run.dir={folder}",
    ]
    given = {override.partition("=")[0] for override in args.overrides}
    words = [word for word in words if word.partition("=")[0] not in given]
    command = [sys.executable, "-m", "loralab.train", *words, *args.overrides, *overrides]
    kernels = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder.parent / "kernels")}  # each run compiles its own
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False, cwd=scratch, env=kernels).returncode:
        raise user_error("loralab train", "failed", "see its messages above")
    return folder


def start_seconds(run: Path) -> dict[str, float]:
    """The stages of the start of a run, in seconds."""
    return json.loads((run / "run.json").read_text())["start_seconds"]


def theirs(args: argparse.Namespace, scratch: Path, steps: int, warmup: int) -> dict[str, Any]:
    """The figures of the plain loop (see plain)."""
    given = {**vars(args), "steps": steps, "warmup": warmup}
    given |= {"base": str(base(scratch, args.shape)), "images": str(scratch / "pictures")}
    command = [sys.executable, "-m", "loralab.bench.plain", json.dumps(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False, cwd=scratch)
    if done.returncode:
        raise user_error("the plain loop", "failed", "see its messages above")
    return json.loads(done.stdout)


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of a benchmark that decide what it measures."""
    return {key: value for key, value in vars(args).items() if key not in ("verb", "kind", "folder")}
