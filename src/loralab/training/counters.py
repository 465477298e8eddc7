"""Lightning's progress counters for any position at which a run may be stopped and resumed.

What Lightning itself restores depends on the hook in which a checkpoint was made: a state saved after an epoch's last
batch, resumed, and saved again has wrong counts. Here the counters follow from the position alone.
"""

from __future__ import annotations

from typing import Any

from lightning import Trainer


def position(trainer: Trainer) -> tuple[int, int]:
    """(epoch, its batches done), counted from 0, once the optimizer step of the current batch is done."""
    batches = int(trainer.num_training_batches)
    return divmod(trainer.current_epoch * batches + trainer.fit_loop.epoch_loop.batch_progress.current.ready, batches)


def place(loops: dict[str, Any], epoch: int, batch: int, batches: int, step: int) -> None:
    """Sets a checkpoint's counters: in an epoch of `batches`, after `batch` of them, after `step` optimizer steps."""
    fit = loops["fit_loop"]
    begun = epoch + (batch > 0)
    epochs = {"ready": begun, "started": begun, "processed": epoch, "completed": epoch}
    fit["epoch_progress"] = {"total": dict(epochs), "current": dict(epochs)}
    fit["epoch_loop.batch_progress"] = {
        "total": _all(epoch * batches + batch),
        "current": _all(batch),
        "is_last_batch": False,
    }
    steps = {"ready": step, "completed": step}
    fit["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"] = {
        "total": dict(steps),
        "current": dict(steps),
    }
    fit["epoch_loop.state_dict"]["_batches_that_stepped"] = step


def _all(count: int) -> dict[str, int]:
    return dict.fromkeys(("ready", "started", "processed", "completed"), count)
