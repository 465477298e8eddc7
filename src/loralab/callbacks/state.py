"""Saves the complete training state, so that a run can resume as if it had never stopped."""

from __future__ import annotations

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from loralab.callbacks.due import due, epochs_done, steps_done
from loralab.schema.ranges import AtLeastOne
from loralab.training.module import LoraModule
from loralab.training.output import Output
from loralab.training.state import States


class SaveState(Callback):
    """Saves with every adapter file, every so many epochs or optimizer steps, and when the run ends or is stopped.

    Only between optimizer steps, right after the adapter. A validation of the same step comes later; a run that
    resumes from the state catches up on it (see Validation).
    """

    def __init__(
        self,
        *,
        every_n_epochs: AtLeastOne | None = None,
        every_n_steps: AtLeastOne | None = None,
        keep_last: AtLeastOne | None = 2,
        output: Output,
        states: States,
    ) -> None:
        self.every_n_epochs, self.every_n_steps, self.keep_last = every_n_epochs, every_n_steps, keep_last
        self.output, self.states = output, states

    def on_train_batch_end(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        step = steps_done(trainer)
        wanted = due(step, self.every_n_steps) or due(epochs_done(trainer), self.every_n_epochs)
        if step and (wanted or self.output.last_saved == step):
            self._save(trainer, module)

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        if trainer.global_step:
            self._save(trainer, module)

    def _save(self, trainer: Trainer, module: LoraModule) -> None:
        with module.run.pace.pause():
            self.states.save(trainer, trainer.global_step, *module.run.position)
        if self.keep_last and trainer.is_global_zero:
            self.states.keep_last(self.keep_last)
