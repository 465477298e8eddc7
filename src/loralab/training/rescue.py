"""What is saved of a run that cannot go on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralab import signals
from loralab.training.module import LoraModule
from loralab.training.output import Output
from loralab.training.state import States

if TYPE_CHECKING:
    from lightning import Trainer


@signals.held()
def rescue(
    trainer: Trainer,
    module: LoraModule,
    output: Output,
    states: States,
    step: int,
    position: tuple[int, int],
    checkpoint: dict[str, Any] | None = None,
    with_state: bool = True,
) -> Path | None:
    """Saves adapter and training state after `step` optimizer steps, and prints the paths; returns the state's folder.

    checkpoint: the state as it was then, where it is not that of now; the module must hold its weights. What cannot be
    saved is reported, and the other is still saved: whatever ended the run may make saving fail, too.
    """

    def save_state() -> Path:
        return states.save(trainer, step, *position, checkpoint=checkpoint).path

    def save_adapter() -> Path | None:
        if output.last_saved == step or not trainer.is_global_zero:
            return None
        if not all(tensor.isfinite().all() for tensor in module.weights.values()):
            raise ValueError("its weights are not finite")
        with module.evaluation_weights():
            return output.save(module.adapters, position[0], step, f"-step{step:08d}")

    _try("adapter", save_adapter)
    return _try("training state", save_state) if with_state else None


def _try(what: str, save: Callable[[], Path | None]) -> Path | None:
    try:
        path = save()
    except Exception as error:
        print(f"error     the {what} could not be saved: {error}", file=sys.stderr)
        return None
    if path:
        print(f"saved     {path}", file=sys.stderr)
    return path
