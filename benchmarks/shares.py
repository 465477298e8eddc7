"""What a training step's time goes into, as JSON: python benchmarks/shares.py

Forward and backward of SD 1.5's UNet with random weights and a LoRA of rank 16, fp32, one thread.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.at_least import at_least
from loralab.bench import shapes
from loralab.models.families.sd.attention import MeasuredAttention
from loralab.models.onednn import set_kernels

KINDS = {
    "attention": ("flash_attention", "_Attention"),
    "convolutions": ("convolution", "im2col", "col2im"),
    "products of matrices": ("mm", "linear"),
    "norms": ("norm",),
}
"""By what the names of their operations contain; the first counts."""


def measure(side: int) -> dict[str, Any]:
    """The share of each kind in a step's time, of a batch of one."""
    family = shapes.full_size("sd1", "fp32")
    set_kernels(family.denoiser, "auto")
    family.denoiser.set_attn_processor(MeasuredAttention())
    inject(family, LoRA(rank=16), Targets())
    shapes.train_step(family, side, 1, "32-true")  # the first one is slower
    with profile(activities=[ProfilerActivity.CPU]) as found:
        shapes.train_step(family, side, 1, "32-true")
    times: Counter[str] = Counter()
    for event in found.events() or ():
        times[_kind(event)] += event.self_cpu_time_total
    return {"resolution": side, **{kind: round(times[kind] / times.total(), 3) for kind in (*KINDS, "all else")}}


def _kind(event: Any) -> str:
    """That of the operation, or of what it is part of: attention has products."""
    inner = next((kind for kind, words in KINDS.items() if any(word in event.name for word in words)), "all else")
    while event.cpu_parent is not None:
        event = event.cpu_parent
        if event.name.startswith("_Attention"):
            return "attention"
    return inner


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=at_least(64), nargs="+", default=[256, 512])
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(json.dumps({"shares": [measure(side) for side in given.sides]}, indent=1))
