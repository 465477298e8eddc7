"""Callbacks that tests put into a run: `+callbacks.stop._target_=tests.support.callbacks.SignalAt allow=[tests.]`."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode

from loralab.errors import user_error
from loralab.training.run_state import RunState


class SignalAt(Callback):
    """Sends this process a signal when a batch, counted from 1 over all epochs, begins; again: once more at once, or
    when so many seconds have passed. rank: of several processes the one; None: each."""

    def __init__(self, batch: int, name: str = "SIGTERM", again: float | None = None, rank: int | None = None) -> None:
        self.batch, self.name, self.again, self.rank = batch, name, again, rank

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self.rank in (None, trainer.global_rank) and trainer.fit_loop.total_batch_idx + 1 == self.batch:
            os.kill(os.getpid(), signal.Signals[self.name])
            if self.again is not None:
                time.sleep(self.again)
                os.kill(os.getpid(), signal.Signals[self.name])


class InTheWay(Callback):
    """Puts things in the way of side work: a file where pictures go, a folder where tags go, no folder for the CSV."""

    def __init__(self, *, run: RunState) -> None:
        self.folder = run.folder

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        (self.folder / "samples").touch()
        (self.folder / "adapter-tags.txt").mkdir()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        shutil.rmtree(self.folder / "csv", ignore_errors=True)
        raise LookupError("and fails itself")


class Raises(Callback):
    """Raises in its first step: an exit, an error that cannot be told, one that a terminal would obey, Ctrl-C."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        raise {
            "exit": SystemExit(0),
            "untold": Untold(),
            "escapes": LookupError("\x1b]0;title\x07"),
            "interrupt": KeyboardInterrupt(),
        }[self.what]


class Untold(Exception):
    def __str__(self) -> str:
        raise ValueError("it has no words")


class TakesFolder(Callback):
    """Puts a file in the place of the run's folder, or a folder in the place of its record."""

    def __init__(self, what: str, *, run: RunState) -> None:
        self.what, self.folder = what, run.folder

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 1 and self.what == "folder":
            shutil.rmtree(self.folder)
            self.folder.touch()
        elif trainer.global_step == 1:
            (self.folder / "run.json").unlink()
            (self.folder / "run.json").mkdir()


class LookLate(Callback):
    """Lets Health look at the steps as late as on a GPU."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        from loralab.callbacks.health import Health

        health = next(c for c in trainer.callbacks if isinstance(c, Health))  # type: ignore[attr-defined]
        health.waits = False
        health._keep(trainer, module)


class HalfPrecision(Callback):
    """fp16 with its scaler, on a CPU, which the settings refuse: slow, but the same code."""

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        from lightning.pytorch.plugins.precision.amp import MixedPrecision

        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu")


class Waits(Callback):
    """Notes in `waits.txt` what would wait for a device in the steps from the fifth on: who asked for which value."""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        LookLate.on_train_start(self, trainer, module)  # type: ignore[arg-type]
        self.mode = _Noting()

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 4:  # the first steps are looked at for tensors that do not move
            self.mode.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == trainer.max_steps:
            self.mode.__exit__(None, None, None)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        Path("waits.txt").write_text("\n".join(sorted(self.mode.found)))


class _Noting(TorchFunctionMode):
    VALUES = ("item", "tolist", "cpu", "numpy", "nonzero", "is_nonzero", "equal", "allclose")
    VALUES += ("__bool__", "__float__", "__int__", "__index__", "__contains__")
    ON_THE_CPU = ("torch/optim", "torch/utils/data", "training/arriving")
    """Where what is asked for is there: counts of steps, seeds, what was read behind the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in self.VALUES:
            caller = sys._getframe(1)
            if not any(place in caller.f_code.co_filename for place in self.ON_THE_CPU):
                self.found.add(f"{func.__name__} in {caller.f_code.co_filename}:{caller.f_lineno}")
        return func(*args, **kwargs or {})


class FillDisk(Callback):
    """Fills a folder's disk when training starts."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        (self.folder / "filler").write_bytes(b"x" * shutil.disk_usage(self.folder).free)


class FailsIn(Callback):
    """Lets an optimizer step, counted from 1, fail in the process of one rank: by an error, a user's mistake, or
    an infinite loss."""

    def __init__(self, rank: int, step: int, how: str) -> None:
        self.rank, self.step, self.how = rank, step, how

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        losses = module.losses

        def failing(*given: Any) -> Any:
            found = losses(*given)  # type: ignore[operator]
            if (trainer.global_rank, trainer.global_step + 1) != (self.rank, self.step):
                return found
            if self.how == "infinite":
                return replace(found, loss=found.loss * float("inf"))
            raise (
                user_error("data.folder", "an image is gone", "bring it back")
                if self.how == "mistake"
                else OSError("gone")
            )

        module.losses = failing  # type: ignore[assignment,method-assign]


class Watched(Callback):
    """When a batch, counted from 1 over all epochs, begins, has another process watch the run, and its sweep."""

    def __init__(self, batch: int, *, run: RunState) -> None:
        self.batch, self.folder = batch, run.folder

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx + 1 == self.batch:
            for name, folder in (("watched", self.folder), ("sweep", self.folder.parent)):
                words = [sys.executable, "-m", "loralab", "watch", str(folder)]
                done = subprocess.run(words, capture_output=True, text=True, check=True)
                (self.folder / f"{name}.txt").write_text(done.stdout)


class Exchanged(Callback):
    """Notes in `exchanged-RANK.json` the bytes of each bucket of gradients that DDP exchanges, step by step."""

    def __init__(self, *, run: RunState) -> None:
        self.run, self.bytes = run, []

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        def noted(state, bucket):  # DDP checks the annotations, where there are any
            self.bytes.append((trainer.global_step, bucket.buffer().nbytes))
            return allreduce_hook(state, bucket)

        trainer.strategy.model.register_comm_hook(None, noted)  # type: ignore[union-attr,operator]

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        trained = sum(p.nbytes for p in module.adapters.parameters() if p.requires_grad)  # type: ignore[union-attr,operator]
        found = json.dumps({"buckets": self.bytes, "trained": trained})
        (self.run.folder / f"exchanged-{trainer.global_rank}.json").write_text(found)


class Weights(Callback):
    """Notes in `weights-RANK.txt` digests of the weights that are trained and of those that are saved, after each
    step."""

    def __init__(self, *, run: RunState) -> None:
        self.run, self.lines = run, []

    def on_train_batch_end(self, trainer: Trainer, module: Any, *_: Any) -> None:
        digests = [self._digest(module)]
        with module.evaluation_weights():
            digests.append(self._digest(module))
        self.lines.append(" ".join(digests))

    @staticmethod
    def _digest(module: Any) -> str:
        return blake2b(b"".join(weight.detach().numpy().tobytes() for weight in module.weights.values())).hexdigest()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        (self.run.folder / f"weights-{trainer.global_rank}.txt").write_text("\n".join(self.lines))


class Alive(Callback):
    """Notes in `alive-RANK.json`, for each step, the bytes of all tensors that are alive after it."""

    def __init__(self, *, run: RunState) -> None:
        self.run, self.bytes = run, []

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        gc.collect()
        alive = [each for each in gc.get_objects() if isinstance(each, torch.Tensor) and type(each) is not DTensor]
        storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in alive}
        self.bytes.append(sum(storages.values()))

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        (self.run.folder / f"alive-{trainer.global_rank}.json").write_text(json.dumps(self.bytes))


class FailingLook(Callback):
    """Has all processes predict after the first step as pictures are drawn; the second one fails."""

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        with module.looking():
            if trainer.global_rank == 1:
                raise ValueError("no picture")
            module.losses(batch, 0)


class KillAt(Callback):
    """Ends the process of a rank by SIGKILL when an optimizer step, counted from 1, begins; only once: there is a file
    then."""

    def __init__(self, rank: int, step: int, file: str) -> None:
        self.rank, self.step, self.file = rank, step, Path(file)

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        if (trainer.global_rank, trainer.global_step + 1) == (self.rank, self.step) and not self.file.exists():
            self.file.touch()
            os.kill(os.getpid(), signal.SIGKILL)
