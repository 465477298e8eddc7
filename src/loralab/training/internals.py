"""The private names of Lightning that loralab uses: all of them, here.

pyproject.toml keeps Lightning below the first version that these were not tried with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning import Trainer


def dump_checkpoint(trainer: Trainer) -> dict[str, Any]:
    """All that Lightning would write into a checkpoint file now."""
    return trainer._checkpoint_connector.dump_checkpoint(weights_only=False)


def loaded_checkpoint(trainer: Trainer) -> dict[str, Any]:
    """The checkpoint that a run resumes from, before anything is restored from it (on_fit_start)."""
    return trainer._checkpoint_connector._loaded_checkpoint


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the batch that ends has only added to the gradient (on_train_batch_end)."""
    return trainer.fit_loop._should_accumulate()
