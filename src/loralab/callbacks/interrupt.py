"""Ctrl-C, SIGTERM and SIGHUP end a run between two optimizer steps, with adapter and state saved."""

from __future__ import annotations

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from loralab import signals
from loralab.callbacks.due import steps_done
from loralab.training.module import LoraModule
from loralab.training.state import States

FIRST = (
    "stopping after this optimizer step to save adapter and state; a second signal stops at once, as of the step before"
)


class Interrupt(Callback):
    """The first signal ends the run after the current optimizer step, its adapter and, with or without
    callbacks.state, its training state saved; a second one ends it at once, as of the last whole step. The last
    pictures are not drawn then. Of several processes one signal ends all, after the same step.
    """

    def __init__(self, *, states: States) -> None:
        self.states = states

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        signals.be_patient(FIRST)
        self._look(trainer, module)

    def on_train_batch_end(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        if steps_done(trainer) is not None:  # an open accumulation window is finished first
            self._look(trainer, module)

    def _look(self, trainer: Trainer, module: LoraModule) -> None:
        if trainer.strategy.reduce_boolean_decision(signals.received() is not None, all=False):
            trainer.should_stop = module.run.interrupted = True

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        if module.run.interrupted and trainer.global_step:
            self.states.save(trainer, trainer.global_step, *module.run.position)

    def teardown(self, trainer: Trainer, module: LoraModule, stage: str) -> None:
        """Not before: what is saved at the end is finished, too."""
        signals.be_patient(None)

    def on_exception(self, trainer: Trainer, module: LoraModule, exception: BaseException) -> None:
        signals.be_patient(None)
