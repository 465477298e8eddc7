"""The Lightning Trainer of a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry

from loralab.errors import user_error
from loralab.schema.ranges import AtLeastOne, NonNegative, Share
from loralab.training.first_reads import FirstReads

PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
"""They write fit-profile.txt into the run's folder; to the terminal they would write nothing (see quiet)."""

ONE_BUCKET = 1 << 20
"""MiB: more than the gradients of any adapter. They are small, so one exchange a step is faster than several."""

# some tensors have no gradient in a step: by module dropout, or behind the layer that clip skip reads
StrategyRegistry.register("ddp", DDPStrategy, override=True, bucket_cap_mb=ONE_BUCKET, find_unused_parameters=True)


def build(
    *,
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto",
    devices: int | str | list[int] = 1,
    num_nodes: AtLeastOne = 1,
    strategy: Literal["auto", "ddp", "fsdp"] = "auto",
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true",
    max_epochs: AtLeastOne | None = None,
    max_steps: AtLeastOne | None = None,
    max_time: str | None = None,
    accumulate_grad_batches: AtLeastOne = 1,
    gradient_clip_val: NonNegative | None = 1.0,
    log_every_n_steps: AtLeastOne = 10,
    deterministic: bool = False,
    limit_train_batches: AtLeastOne | Share | None = None,
    overfit_batches: AtLeastOne | Share = 0.0,
    profiler: Literal["simple", "advanced", "pytorch"] | None = None,
    **given: Any,
) -> L.Trainer:
    """A Trainer for `max_steps` optimizer steps, or where that is null for `max_epochs` passes over the data.

    `fsdp` is `ddp` whose processes share the frozen weights out before they train (see LoraModule.share_out).
    Checkpoints, sharding between devices, the progress bar and the summary are loralab's own, so Lightning's are off.
    `given` is what run.py supplies: callbacks, loggers, the run's folder.
    """
    with _refused():
        return L.Trainer(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy="ddp" if strategy == "fsdp" else strategy,  # gradients are exchanged alike
            precision=precision,
            max_epochs=-1 if max_steps else max_epochs,
            max_steps=max_steps or -1,
            max_time=max_time,
            accumulate_grad_batches=accumulate_grad_batches,
            gradient_clip_val=gradient_clip_val or None,
            log_every_n_steps=log_every_n_steps,
            deterministic=deterministic,
            enable_progress_bar=False,
            limit_train_batches=limit_train_batches,
            overfit_batches=overfit_batches,
            profiler=profiler and PROFILERS[profiler](given.get("default_root_dir"), "profile"),
            num_sanity_val_steps=0,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            plugins=[FirstReads()],
            **given,
        )


@contextmanager
def _refused() -> Iterator[None]:
    """Lightning's Trainer; a UserError where it cannot work with the available devices."""
    try:
        yield
    except (MisconfigurationException, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise user_error("trainer", first, "set trainer=default, which picks an available device") from error
