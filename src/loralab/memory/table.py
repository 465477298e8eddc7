"""What models need of a GPU under each memory setting, by the planner: python -m loralab.memory.table [model …]"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from loralab.memory.estimate import estimate
from loralab.models.registry import FAMILIES
from loralab.schema.compose import compose

COMMON = (
    *("trainer.precision=bf16-mixed", "targets=unet_only", "data.batch_size=1", "data.cache.latents=disk"),
    *("model.gradient_checkpointing=true", "callbacks.samples.enabled=false", "adapter.rank=16"),
)
"""One image a step, texts cached as well."""
SIDES = (512, 1024)
SETTINGS = {
    "bf16": [],
    "`offload=0.5`": ["model.offload=0.5"],
    "`offload=1.0`": ["model.offload=1.0"],
    "fp8": ["model.quantize=fp8"],
    "int8": ["model.quantize=int8"],
    "nf4": ["model.quantize=nf4"],
}


def lines(models: Sequence[str], sides: Sequence[int] = SIDES) -> Iterator[str]:
    """Rows of a table in Markdown: GB of 2³⁰ bytes in a training step, of which the last column is the most that is
    taken before it, while images are encoded."""
    columns = ["model", "pixels", *SETTINGS, "encoding images"]
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (len(columns) - 1)}"
    for model in models:
        for side in sides:
            given = [f"model={model}", "data=shapes", f"data.resolution={side}", "data.buckets.step=64", *COMMON]
            found = [estimate(compose([*given, *more]).tree, "cuda").phases for more in SETTINGS.values()]
            steps = [sum(phases["a training step"].values()) for phases in found]
            encoding = sum(found[0]["encoding images"].values())
            yield f"| {model} | {side} | {' | '.join(f'{size / 2**30:.1f}' for size in (*steps, encoding))} |"


if __name__ == "__main__":
    for line in lines(sys.argv[1:] or [row.options[0] for row in reversed(FAMILIES.values())]):
        print(line, flush=True)
