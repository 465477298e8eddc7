"""All of them: runs each benchmark, keeps its result in docs/benchmarks, and writes docs/benchmarks.md from these."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch

from loralab.bench import page
from loralab.bench.machine import machine
from loralab.errors import UserError, user_error
from loralab.files import as_json
from loralab.schema.nearest import did_you_mean
from loralab.writing import atomic_path

SDXL = "loralab bench train --shape sdxl --steps 2 --warmup 1 health.stop_if_unchanged=false"
"""Repeated random weights leave two tensors of the last text encoder without a gradient."""
GPU = "loralab bench train --device cuda --dtype bf16 --precision bf16-mixed --steps 10 --warmup 4"
"""Ten steps have all that is done in some of them: what is logged, checked, and asked of the base model."""
PLANNED = " memory.limit_gb=auto"
GPU_SHAPES = (("sd1", 512, ""), ("sdxl", 1024, " health.stop_if_unchanged=false"))
"""With the pixels of a side, and a setting of loralab's run."""
LEVERS = "python benchmarks/levers.py"
SD1 = "loralab bench train --shape sd1 --steps 3 --warmup 1"
BF16 = "model.dtype=bf16 trainer.precision=bf16-mixed"


class Benchmark(NamedTuple):
    """A command that prints JSON."""

    command: str
    quick: str | None = None
    """The one for --quick; None: then it is not run."""
    gpu: bool = False
    """Whether it needs a CUDA device; where there is none, it is run only if asked for."""


BENCHMARKS = {
    "start-tiny": Benchmark("loralab bench start --rounds 3", "loralab bench start"),
    "start-sd1": Benchmark("loralab bench start --shape sd1"),
    "train-tiny": Benchmark("loralab bench train --steps 60 --rounds 3", "loralab bench train --steps 10"),
    "train-tiny-8": Benchmark("loralab bench train --batch-size 8 --steps 30 --rounds 3"),
    "train-sd1-256": Benchmark(f"{SD1} --rounds 3"),
    "train-sd1-512": Benchmark(f"{SD1} --resolution 512 --rounds 2"),
    "train-sd1-768": Benchmark(f"{SD1} --resolution 768"),
    "train-sdxl-512": Benchmark(f"{SDXL} --resolution 512"),
    "train-sdxl-512-4": Benchmark(f"{SDXL} --resolution 512 --batch-size 4 --dtype bf16 --precision bf16-mixed"),
    "train-sdxl-1024": Benchmark(f"{SDXL} --resolution 1024 --dtype bf16 --precision bf16-mixed"),
    "best-sd1-256": Benchmark(f"{SD1} --rounds 3 {BF16}"),
    "best-sd1-512": Benchmark(f"{SD1} --resolution 512 {BF16}"),
    **{
        f"gpu-{shape}-{side}-{batch}": Benchmark(
            f"{GPU} --shape {shape} --resolution {side} --batch-size {batch}{word}{PLANNED * (batch == 4)}", gpu=True
        )
        for shape, side, word in GPU_SHAPES
        for batch in (1, 4, 8)
    },
    **{
        f"gpu-{shape}-{side}-denoiser": Benchmark(
            f"python benchmarks/denoiser.py --shape {shape} --resolution {side} --compile",
            f"python benchmarks/denoiser.py --shape {shape} --resolution {side} --batches 1 --steps 3",
            gpu=True,
        )
        for shape, side, _ in GPU_SHAPES
    },
    "shares": Benchmark("python benchmarks/shares.py", "python benchmarks/shares.py --sides 64"),
    "levers": Benchmark(f"{LEVERS} --compile", f"{LEVERS} --rounds 3"),
    "gpu-levers": Benchmark(f"{LEVERS} --device cuda --compile", f"{LEVERS} --device cuda --rounds 3", gpu=True),
    "growth": Benchmark("loralab bench growth", "loralab bench growth --steps 3 --warmup 1 --points 2"),
    "images": Benchmark(
        "python benchmarks/data.py --pictures 0",
        "python benchmarks/data.py --pictures 0 --images 1000",
    ),
    "latents": Benchmark("python benchmarks/data.py --images --pictures 24"),
    "stores": Benchmark("python benchmarks/stores.py --records 1000 --rounds 3"),
    "cache": Benchmark("python benchmarks/cache.py", "python benchmarks/cache.py --entries 1000 5000"),
    "columns": Benchmark("python benchmarks/columns.py", "python benchmarks/columns.py --folders 20 --rounds 2"),
}
"""By the name of the file of its result."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--quick", action="store_true", help="small ones, in minutes; replaces results of the same name"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"some of them: {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--machine",
        default="",
        metavar="NAME",
        help="of a further machine: results are kept in a folder of this name, the page has those of steps on a CPU",
    )
    parser.add_argument("--docs", default="docs", help="folder of benchmarks.md (default: docs, in a clone)")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """What was measured and what failed, by name; a failed one leaves its earlier result."""
    docs = Path(args.docs)
    names = args.only or [name for name, each in BENCHMARKS.items() if not each.gpu or torch.cuda.is_available()]
    for name in names:
        if name not in BENCHMARKS:
            raise user_error("--only", f"unknown benchmark '{name}'", did_you_mean(name, BENCHMARKS) or "see --help")
    if not docs.is_dir():
        raise user_error("--docs", f"'{docs}' is not a folder", "run it in a clone, or give a folder: --docs FOLDER")
    done: dict[str, Any] = {"measured": [], "failed": {}}
    with tempfile.TemporaryDirectory() as models:
        _measure_all(args, names, docs, models, done)
    page.write(docs)
    return done


def _measure_all(args: argparse.Namespace, names: list[str], docs: Path, models: str, done: dict[str, Any]) -> None:
    for name in names:
        command = BENCHMARKS[name].quick if args.quick else BENCHMARKS[name].command
        if command is None:
            continue
        print(f"{name}: {command}", file=sys.stderr, flush=True)
        try:
            write(docs, Path(args.machine, name), command, _result(command, models))
            done["measured"].append(name)
        except UserError as error:
            done["failed"][name] = str(error)


def _result(command: str, models: str) -> Any:
    """What a command prints; models: a folder in which full-size ones are kept for the next command."""
    program, *words = shlex.split(command)
    words += ["--folder", models] if words[:2] == ["bench", "train"] else []
    started = [sys.executable, *(["-m", "loralab.cli"] if program == "loralab" else []), *words]
    done = subprocess.run(started, stdout=subprocess.PIPE, check=False)
    if done.returncode:
        raise user_error(command, "failed", "see its messages above")
    return json.loads(done.stdout)


def write(docs: Path, name: Path, command: str, result: Any) -> None:
    """Keeps a result with what it was measured by and on."""
    place = docs / page.RESULTS / f"{name}.json"
    place.parent.mkdir(exist_ok=True, parents=True)
    with atomic_path(place, "--docs") as beside:
        beside.write_text(as_json({"command": command, "machine": machine(), "result": result}) + "\n", encoding="utf8")
