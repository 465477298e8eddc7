"""Times what the processes of a run on several devices wait for."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import LightningModule, Trainer

from loralab.bench.clock import Clock


class Exchange(Clock):
    """Writes the figures of each process to `rank0.json` … in a folder when the run ends.

    The exchange of gradients begins when all processes are there, so that waiting for the slowest is told from it.
    """

    def __init__(self, folder: str, warmup: int) -> None:
        super().__init__("", warmup)
        self.folder = Path(folder)
        self.waits: list[float] = []
        """Seconds that this process waits for the others, in each step."""
        self.exchanges: list[float] = []
        self.bytes = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.file = self.folder / f"rank{trainer.global_rank}.json"
        if trainer.world_size > 1:
            trainer.strategy.model.register_comm_hook(None, self._exchange)  # type: ignore[union-attr,operator]

    def _exchange(self, state, bucket):  # DDP compares annotations with its own
        gradients = bucket.buffer()
        begun = self._now(gradients)
        dist.barrier()
        together = self._now(gradients)
        dist.all_reduce(gradients.div_(dist.get_world_size()))
        self.waits.append(together - begun)
        self.exchanges.append(self._now(gradients) - together)
        self.bytes = gradients.nbytes
        done: torch.futures.Future[Any] = torch.futures.Future()
        done.set_result(gradients)
        return done

    @staticmethod
    def _now(tensor: torch.Tensor) -> float:
        """When the device has done all that it was given so far."""
        if tensor.is_cuda:
            torch.cuda.synchronize(tensor.device)
        return time.perf_counter()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        super().on_train_end(trainer, module)
        if self.exchanges:
            figures = json.loads(self.file.read_text())
            figures["seconds_waiting_for_others"] = round(statistics.median(self.waits[self.laps.warmup :]), 6)
            figures["seconds_of_exchange"] = round(statistics.median(self.exchanges[self.laps.warmup :]), 6)
            self.file.write_text(json.dumps({**figures, "bytes_exchanged": self.bytes}))
