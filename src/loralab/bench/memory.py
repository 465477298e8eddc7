"""Memory: all tensors of a training step at full size, counted without computing them or needing a GPU.

Under torch's FakeTensorMode tensors have shapes and no contents. A storage counts from the operation that makes it
until it is freed, through forward and backward. The CUDA context, workspaces of kernels, and what the allocator keeps
in reserve come on top.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from loralab.at_least import at_least
from loralab.models.registry import FAMILIES, USUAL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shapes = [row.name for row in FAMILIES.values() if not row.in_parts][::-1]  # of others, loralab plan tells
    parser.add_argument("--shape", choices=shapes, default=USUAL.name)
    parser.add_argument("--resolution", type=at_least(64), nargs="+", default=[512, 768, 1024])
    parser.add_argument("--batch-size", type=at_least(1), default=1)
    parser.add_argument("--rank", type=at_least(1), default=16)
    parser.add_argument("--targets", choices=("both", "unet_only"), default="both")
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="bf16-mixed")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16", help="dtype of the frozen weights")
    parser.add_argument("--optimizer", choices=("adamw", "adamw8bit"), default="adamw")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Gigabytes (2³⁰ bytes), by the dtype of the frozen weights."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from loralab.adapters.inject import inject
    from loralab.adapters.lora import LoRA
    from loralab.adapters.targets import Targets
    from loralab.bench import shapes
    from loralab.memory.quantized import quantization_saves
    from loralab.memory.storages import Storages
    from loralab.models.checkpointing import checkpoint_gradients

    with FakeTensorMode(), Storages() as storages:
        family = shapes.full_size(args.shape, args.dtype)
        kinds = ("int8", "nf4") if args.dtype == "bf16" else ()  # fp32 ones are cast for each product, and kept so
        smaller = {kind: quantization_saves(family.parts().values(), kind) for kind in kinds}
        weights = {args.dtype: storages.now, **{kind: storages.now - saved for kind, saved in smaller.items()}}
        adapters = inject(family, LoRA(rank=args.rank), Targets(text_encoder=args.targets == "both"))
        trained = list(adapters.parameters())
        adapter = sum(weight.nbytes for weight in trained)
        optimizer = sum(shapes.optimizer_bytes(weight.numel(), args.optimizer) for weight in trained)
        steps = []
        for checkpointing in (False, True):
            if checkpointing:
                checkpoint_gradients(family.denoiser, family.text_encoders.values(), True)
            for side in args.resolution:
                more = storages.more_in(partial(shapes.train_step, family, side, args.batch_size, args.precision))
                adapters.zero_grad()
                totals = {kind: _gb(size + adapter + optimizer + more) for kind, size in weights.items()}
                row = {"resolution": side, "gradient_checkpointing": checkpointing}
                steps.append({**row, "activations_and_gradients_gb": _gb(more), "step_gb": totals})
        vae = {"encode": shapes.encode, "decode": shapes.decode}
        images = [
            {
                "resolution": side,
                **{f"{n}_gb": _gb(storages.more_in(partial(do, family, side))) for n, do in vae.items()},
            }
            for side in args.resolution
        ]
    return {
        **{name: value for name, value in vars(args).items() if name in vars(_defaults())},
        "weights_gb": {kind: _gb(size) for kind, size in weights.items()},
        "adapter_gb": _gb(adapter),
        "optimizer_gb": _gb(optimizer),
        "steps": steps,
        "one_image": images,
    }


def _defaults() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([])


def _gb(size: int) -> float:
    return round(size / 2**30, 2)
