"""Forward and backward of a denoiser with a LoRA, in each way of starting its kernels: python benchmarks/denoiser.py

At full size with random weights in bf16; latents and text are given. `plain` is diffusers with PEFT, as in
`loralab bench train`; `graphs` needs a GPU. Prints JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.at_least import at_least
from loralab.bench.laps import Laps
from loralab.bench.peak import peak_flops
from loralab.bench.plain import UNET
from loralab.bench.shapes import CAPTION, full_size
from loralab.models.compiling import CompiledBlocks
from loralab.models.family import Family
from loralab.models.memory_format import set_memory_format
from loralab.training.graphs import Graphs

RANK, WARM_UP = 16, 3
Way = Literal["plain", "eager", "graphs", "compiled"]
KINDS = {
    "attention": r"sdpa|flash|fmha|attention|dot_do_o|convert_dq",
    "norms": r"_moments|_normalized|_gradient_sums|layer_norm|group_norm|GroupNorm",
    "gates": r"_gated|gelu",
    "convolutions": r"xmma|conv|im2col|nchw|nhwc",
    "products": r"nvjet|gemm|cutlass|splitK|cublas|gemv",
}
"""Of kernels, by what their names contain; the first that fits."""


class Denoiser:
    """One with adapters, and how a step of it is started."""

    def __init__(self, shape: str, way: Way, device: str) -> None:
        torch.manual_seed(0)
        with torch.device(device):
            self.family: Family = full_size(shape, "bf16", *(("torch", "sdpa") if way == "plain" else ("auto", "auto")))
        self.device = device
        self.begin: Callable[[], None] = lambda: None
        (self._with_peft if way == "plain" else self._with_ours)()
        if way in ("graphs", "compiled") and device == "cuda":
            self.begin = Graphs(self.family, [self.family.row.denoiser], self.adapters).begin
        if way == "compiled":
            CompiledBlocks(self.family.denoiser).use()

    def _with_peft(self) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        unet: Any = self.family.denoiser
        inject_adapter_in_model(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=UNET), unet)
        self.trained = [p for p in unet.parameters() if p.requires_grad]
        for parameter in self.trained:
            parameter.data = parameter.data.float()

    def _with_ours(self) -> None:
        self.adapters = inject(self.family, LoRA(rank=RANK), Targets(text_encoder=False)).to(self.device)
        self.trained = list(self.adapters.parameters())
        set_memory_format(self.family.denoiser, torch.channels_last)

    def loss(self, resolution: int, batch: int) -> Callable[[], Tensor]:
        """Of so many images of a size, which is the same each time."""
        noisy = torch.randn(batch, *self.family.latent_shape(resolution, resolution), device=self.device)
        target, timesteps = torch.randn_like(noisy), torch.full((batch,), 500, device=self.device)
        with torch.no_grad():
            given = self.family.encode_text([CAPTION] * batch, size=(resolution, resolution))

        def loss() -> Tensor:
            with torch.autocast(self.device, torch.bfloat16):
                return F.mse_loss(self.family.predict(noisy, timesteps, given), target)

        return loss

    def step(self, loss: Callable[[], Tensor]) -> None:
        self.begin()
        loss().backward()
        for parameter in self.trained:
            parameter.grad = None


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of each way and batch, in seconds of a step, with its share of the device's peak."""
    ways: list[Way] = ["plain", "eager"]
    if args.device == "cuda":
        ways.append("graphs")
    if args.compile:
        ways.append("compiled")
    peak = peak_flops(torch.device(args.device), torch.bfloat16)
    flops, rows = dict[int, int](), []
    for way in ways:
        rows += _rows(args, way, flops)
        gc.collect()
        torch.cuda.empty_cache()
    for row in rows:
        row["share_of_peak"] = round(flops[row["batch_size"]] / row["seconds_per_step"] / peak, 3)
    facts = {name: getattr(args, name) for name in ("shape", "resolution", "device", "steps")}
    return {**facts, "dtype": "bf16", "peak_tflops": round(peak / 1e12, 2), "rows": rows}


def _rows(args: argparse.Namespace, way: Way, flops: dict[int, int]) -> Iterator[dict[str, Any]]:
    """Of one way; flops: the floating-point operations by batch are put there."""
    from torch.utils.flop_counter import FlopCounterMode

    denoiser = Denoiser(args.shape, way, args.device)
    for batch in args.batches:
        loss, laps = denoiser.loss(args.resolution, batch), Laps(WARM_UP)
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
        if way == "plain":
            with FlopCounterMode(display=False) as counter:
                denoiser.step(loss)
            flops[batch] = counter.get_total_flops()
        for _ in range(WARM_UP + args.steps):
            denoiser.step(loss)
            laps.lap()
        row = {"way": way, "batch_size": batch, **laps.figures(torch.device(args.device), batch)}
        yield row | ({"kernels": kernels(denoiser, loss)} if args.device == "cuda" else {})


def kernels(denoiser: Denoiser, loss: Callable[[], Tensor]) -> dict[str, Any]:
    """Of a step: how many, their seconds, and of these the share of each kind."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        denoiser.step(loss)
        torch.cuda.synchronize()
    return by_kind([(each.key, each.count, each.self_device_time_total / 1e6) for each in profiler.key_averages()])


def by_kind(found: list[tuple[str, int, float]]) -> dict[str, Any]:
    """found: names of kernels, how many, and the seconds of all of a name."""
    seconds = dict.fromkeys([*KINDS, "else"], 0.0)
    for name, _, duration in found:
        seconds[next((kind for kind, names in KINDS.items() if re.search(names, name)), "else")] += duration
    total = sum(seconds.values())
    shares = {kind: round(value / total, 3) for kind, value in seconds.items()}
    return {"count": sum(count for _, count, _ in found), "seconds": round(total, 5), "shares": shares}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=("sd1", "sd2", "sdxl"), default="sd1")
    parser.add_argument("--resolution", type=at_least(64), default=512)
    parser.add_argument("--batches", type=at_least(1), nargs="+", default=[1, 4, 8])
    parser.add_argument("--steps", type=at_least(1), default=10)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--compile", action="store_true", help="torch.compile, too, which takes minutes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device: no CUDA device found, use --device cpu")
    torch.set_float32_matmul_precision("high")
    print(json.dumps(measure(given), indent=1))
