"""What only a GPU can show, in one call: python scripts/gpu_checks.py > gpu.json

Precisions, 8-bit and paged optimizers, attention kinds, exact resume in deterministic mode, and the speed and memory of
SD 1.5 and SDXL (random weights, 50 steps each). Each check is a run of train.py; a failed one does not end the others.
With --device=cpu it tries itself: the embedded model, and what a CPU can.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loralab.bench import train as bench

ROOT = Path(__file__).resolve().parents[1]
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
OPTIMIZERS = ("adam8bit", "adamw8bit", "paged_adamw8bit", "lion8bit", "ademamix8bit", "prodigy", "schedulefree")
ATTENTION = ("sdpa", "eager", *(["xformers"] if importlib.util.find_spec("xformers") else []))
FULL_SIZE = (("sd1", 512, 4), ("sdxl", 1024, 1))
"""Shape, pixels, batch size."""


class Checks:
    """Runs on one model; `found` holds the figures or the error of each."""

    def __init__(self, scratch: Path, device: str, shape: str, resolution: int, batch_size: int) -> None:
        self.scratch, self.found = scratch, {}
        bench.prepare(scratch, shape, resolution)
        parser = argparse.ArgumentParser()
        bench.add_arguments(parser)
        words = [f"--shape={shape}", f"--resolution={resolution}", f"--batch-size={batch_size}", f"--device={device}"]
        self.settings = bench.settings(parser.parse_args([*words, "--steps=20", "--warmup=0"]), scratch)

    def run(self, name: str, *overrides: str) -> Path | None:
        """Notes steps, images/s and peak memory of a run; returns its folder, None where it failed."""
        folder = self.scratch / "runs" / name.replace(" ", "-")
        given = {override.split("=")[0] for override in overrides}
        words = [word for word in self.settings if word.split("=")[0] not in given]
        words += [*overrides, "output.precision=fp32", f"hydra.run.dir={folder}"]
        print(name, *overrides, file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, str(ROOT / "train.py"), *words], capture_output=True, text=True)
        if done.returncode:
            self.found[name] = {"error": done.stderr[-2000:]}
            return None
        record = json.loads((folder / "run.json").read_text())
        wanted = ("status", "steps", "loss", "images_per_second", "peak_memory_gb", "eight_bit")
        self.found[name] = {key: record.get(key) for key in wanted}
        return folder

    def resume(self, precision: str) -> None:
        """The run from a state in its middle ends with the bytes of the whole run."""
        words = (f"trainer.precision={precision}", "trainer.deterministic=true", "trainer.max_steps=12")
        whole = self.run(
            f"whole {precision}", *words, "callbacks.state.enabled=true", "callbacks.state.every_n_steps=7"
        )
        state = whole and next(iter(sorted((whole / "states").iterdir())))
        resumed = whole and self.run(f"resumed {precision}", *words, f"resume={state}")
        if whole and resumed:
            files = [(folder / "adapter.safetensors").read_bytes() for folder in (whole, resumed)]
            self.found[f"resumed {precision}"]["exact"] = files[0] == files[1]


def checks(folder: str | None, device: str) -> Iterator[tuple[str, dict[str, Any]]]:
    precisions = [precision for precision in PRECISIONS if device == "cuda" or precision != "16-mixed"]
    optimizers = [optimizer for optimizer in OPTIMIZERS if device == "cuda" or not optimizer.startswith("paged")]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        tiny = Checks(Path(scratch), device, "tiny", 64, 4)
        for precision in precisions:
            tiny.run(precision, f"trainer.precision={precision}")
        for optimizer in optimizers:
            small = ("optimizer.min_8bit_size=16",) if "8bit" in optimizer else ()
            tiny.run(optimizer, f"optimizer={optimizer}", *small)
        for attention in ATTENTION:
            tiny.run(attention, f"model.attention={attention}", "trainer.precision=bf16-mixed")
        for precision in precisions:
            tiny.resume(precision)
        yield "tiny", tiny.found
    for shape, resolution, batch_size in FULL_SIZE if device == "cuda" else ():
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            full = Checks(Path(scratch), device, shape, resolution, batch_size)
            for precision in ("bf16-mixed", "16-mixed"):
                dtype = "bf16" if precision == "bf16-mixed" else "fp16"
                full.run(precision, f"trainer.precision={precision}", f"model.dtype={dtype}", "trainer.max_steps=50")
            yield f"{shape}, {resolution} px, batch {batch_size}", full.found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", help="where models are written: 10 GB (default: the system's place for such)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic matrix products ask for
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    found = dict(checks(args.folder, args.device))
    print(json.dumps({"device": name, "torch": torch.__version__, **found}, indent=1))
    failed = [name for group in found.values() for name, facts in group.items() if is_bad(facts)]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def is_bad(facts: dict[str, Any]) -> bool:
    return "error" in facts or facts.get("exact") is False


if __name__ == "__main__":
    main()
