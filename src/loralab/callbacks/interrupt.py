"""Ctrl-C and SIGTERM end a run between two optimizer steps, with everything saved."""

from __future__ import annotations

import signal
from types import FrameType

from lightning import Trainer
from lightning.pytorch.callbacks import Callback

from loralab.callbacks.due import steps_done
from loralab.training.module import LoraModule


class Interrupt(Callback):
    """The first signal asks the run to stop after the current optimizer step; a second one stops it at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self.before: dict[signal.Signals, object] = {}

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.before[number] = signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        print(f"\n{self.received}: stopping after this step; once more to stop at once", flush=True)
        signal.signal(number, signal.default_int_handler)

    def on_train_batch_end(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        if steps_done(trainer) is None:  # an open accumulation window is finished first
            return
        if trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            trainer.should_stop = module.interrupted = True

    def teardown(self, trainer: Trainer, module: LoraModule, stage: str) -> None:
        """Not before: what is drawn and saved at the end is finished, too."""
        self._give_back()

    def on_exception(self, trainer: Trainer, module: LoraModule, exception: BaseException) -> None:
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self.before.clear()
