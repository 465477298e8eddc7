"""Compiles the denoiser's blocks (see CompiledBlocks) where it makes a step faster."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from loralab.callbacks.cuda_graphs import CudaGraphs
from loralab.console import is_first
from loralab.errors import user_error
from loralab.models.compiling import CompiledBlocks
from loralab.training.dry_run import dry_run
from loralab.training.module import LoraModule
from loralab.types import Batch

if TYPE_CHECKING:
    from loralab.data.module import DataModule

Step = Callable[[], list[Tensor]]
"""Forward and backward of a batch: its gradients."""
PAYS = 0.97
"""Share of the plain time of a step below which a compiled one is kept: less could be noise."""
TOLERANCES = {"32-true": 0.01, "16-mixed": 0.1, "bf16-mixed": 0.1}
"""By precision: how far a gradient may be from the plain one, as a share of it; the first is that of TF32."""
WARM_UP = 2
"""Steps of each way that are not timed: the second records its CUDA graph."""
PATIENCE = 2.0
"""Seconds of steps that are timed; one of each way at least."""


class Compiled(Callback):
    """Times the largest batch without and with compiled blocks before the first step, and drops what does not pay. The
    training state keeps the decision (RunState.compiled), and a resumed run follows it.

    torch.compile has errors that show in the gradients of some shapes, so these are compared with the plain ones where
    a shape of images first comes; where they differ, its batches are computed by plain blocks. Dry runs change no
    result.

    tell: gets what was found as `compiled`. graphs: those of the run, if it has any.
    """

    def __init__(self, tell: Callable[..., object], graphs: CudaGraphs) -> None:
        self.tell, self.graphs = tell, graphs
        self.blocks: CompiledBlocks | None = None
        self.right: dict[torch.Size, bool] = {}
        """Whether the gradients of a shape are those of plain blocks."""

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        run, data = module.run, self._data(trainer)
        run.stages.end("samples")
        found = run.compiled
        if found is None or found["kept"]:
            self.blocks = blocks = CompiledBlocks(module.family.denoiser)
            self.graphs.variant = lambda: blocks.is_used
        run.compiled = run.ranks.of_first(found or self._measured(trainer, module, data.largest_batch()))
        if not run.compiled["kept"]:
            self._drop()
        self.tell(compiled=run.compiled)
        self._say(told(run.compiled, data.batch_shapes()))
        run.stages.end("compile")

    def on_train_batch_start(self, trainer: Trainer, module: LoraModule, batch: Batch, batch_idx: int) -> None:
        if self.blocks is None:
            return
        if shape_of(batch) not in self.right:
            with module.run.pace.pause():
                _, off = self._compare(trainer, module, batch)
            if not self.right[shape_of(batch)]:
                self._say(f"plain blocks for {told_shape(batch)}: {_wrong(off)}")
        (self.blocks.use if self.right[shape_of(batch)] else self.blocks.drop)()

    def teardown(self, trainer: Trainer, module: LoraModule, stage: str) -> None:
        self._drop()

    def _drop(self) -> None:
        if self.blocks:
            self.blocks.drop()
            self.blocks = None

    def _measured(self, trainer: Trainer, module: LoraModule, batch: Batch) -> dict[str, Any]:
        batch = batch.to(module.device)
        seconds, off = self._compare(trainer, module, batch)
        ratio = self._ratio(self._step(trainer, module, batch)) if self.right[shape_of(batch)] else None
        kept = ratio is not None and ratio < PAYS
        return {"kept": kept, "ratio": ratio, "seconds": seconds, "gradient_off": off}

    def _compare(self, trainer: Trainer, module: LoraModule, batch: Batch) -> tuple[float, float]:
        """Seconds that compiling and a step take, and how far the gradients are from the plain ones."""
        assert self.blocks
        step = self._step(trainer, module, batch)
        try:
            with self.graphs.off():
                self.blocks.drop()
                plain = step()
                self.blocks.use()
                start = time.perf_counter()
                gradients = step()
                seconds = round(time.perf_counter() - start, 1)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            first = f"torch.compile failed: {next(filter(None, str(error).splitlines()), type(error).__name__)}"
            cache = os.environ.get("TORCHINDUCTOR_CACHE_DIR")  # torch sets it when it compiles
            remedy = f"remove {cache}, which a run that was killed may have left damaged, or set speed.compile=false"
            raise user_error("speed.compile", first, remedy) from error
        off = distance(plain, gradients)
        self.right[shape_of(batch)] = off < TOLERANCES[trainer.precision]
        return seconds, off

    def _ratio(self, step: Step) -> float:
        """Of the seconds of a compiled step to those of a plain one: the fastest of each."""
        assert self.blocks
        first = WARM_UP if self.graphs.graphs else 0
        times: list[tuple[float, float]] = []
        while sum(map(sum, times[first:])) < PATIENCE:  # in turn, as the machine may be busier in one than in another
            self.blocks.drop()
            plain = timed(step)
            self.blocks.use()
            times.append((plain, timed(step)))
        before, after = map(min, zip(*times[first:], strict=True))
        return round(after / before, 3)

    def _step(self, trainer: Trainer, module: LoraModule, batch: Batch) -> Step:
        def step() -> list[Tensor]:
            self.graphs.begin()
            gradients = dry_run(trainer, module, batch)
            if module.device.type == "cuda":
                torch.cuda.synchronize(module.device)
            return gradients

        return step

    @staticmethod
    def _say(words: str) -> None:
        if is_first():
            print(f"compile   {words}", flush=True)

    @staticmethod
    def _data(trainer: Trainer) -> DataModule:
        return trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]


def timed(step: Step) -> float:
    """Seconds that a step takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def distance(plain: list[Tensor], compiled: list[Tensor]) -> float:
    """Between two gradients, as a share of the first one's norm."""
    if len(plain) != len(compiled):
        return math.inf
    square = sum(float((one.double() - other).square().sum()) for one, other in zip(plain, compiled, strict=True))
    norm = sum(float(one.double().square().sum()) for one in plain)
    return math.sqrt(square / norm) if norm else square


def shape_of(batch: Batch) -> torch.Size:
    """Of its images: their number, channels and size."""
    images = batch.latent_mean if batch.latent_mean is not None else batch.pixels
    assert images is not None, "a batch has pixels or latents"
    return images.shape


def told_shape(batch: Batch) -> str:
    return "×".join(map(str, shape_of(batch)))


def told(found: dict[str, Any], shapes: int) -> str:
    """What was found, in words. shapes: of the batches."""
    if found["ratio"] is None:
        return f"dropped: {_wrong(found['gradient_off'])}"
    share = f"a step takes {found['ratio']:.2f} of the time"
    if not found["kept"]:
        return f"dropped: {share}"
    others = f"; {shapes} shapes of batches, each compiled when it first comes" if shapes > 1 else ""
    return f"{found['seconds']:.0f} s, {share}{others}"


def _wrong(off: float) -> str:
    return f"torch.compile gets the gradient wrong, by {off:.1%}"
