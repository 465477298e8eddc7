"""Computes a step by CUDA graphs (see training.graphs)."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from loralab.training.graphs import Graphs, hindrance, recorded_parts
from loralab.training.module import LoraModule
from loralab.types import Batch


class CudaGraphs(Callback):
    """variant: anything else that changes which kernels there are; set before training starts."""

    def __init__(self) -> None:
        self.graphs: Graphs | None = None
        self.variant: Callable[[], Hashable] = lambda: None

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        if not hindrance(trainer.strategy.root_device, trainer.world_size, module.run.settings):
            parts = recorded_parts(module.family, module.run.settings)
            self.graphs = Graphs(module.family, parts, module.adapters, lambda: self.variant())
            module.run.make_room = self.graphs.make_room

    def on_train_batch_start(self, trainer: Trainer, module: LoraModule, batch: Batch, batch_idx: int) -> None:
        self.begin()

    def begin(self) -> None:
        """Before each batch, also of a dry run."""
        if self.graphs:
            self.graphs.begin()

    def off(self) -> AbstractContextManager[None]:
        """Within it kernels are started one by one."""
        return self.graphs.off() if self.graphs else nullcontext()

    def teardown(self, trainer: Trainer, module: LoraModule, stage: str) -> None:
        if self.graphs:
            self.graphs.drop()
            self.graphs = None
