"""When something beside training is due: asked in `on_train_batch_end`."""

from __future__ import annotations

from lightning import Trainer

from loralab.training.internals import is_accumulating


def steps_done(trainer: Trainer) -> int | None:
    """How many optimizer steps are done, where the batch that ends completed one."""
    return None if is_accumulating(trainer) else trainer.global_step


def epochs_done(trainer: Trainer) -> int | None:
    """How many epochs are done, where the batch that ends completed one."""
    return trainer.current_epoch + 1 if trainer.is_last_batch else None


def due(done: int | None, every: int | None) -> bool:
    return bool(done and every and done % every == 0)
