"""What a resumed run must see to, beside what Lightning restores."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from loralab.errors import user_error
from loralab.optim.schedules import Schedule
from loralab.training.resume import Resume


class Resumed(Callback):
    """Refuses a schedule made for another length; lets settings that were insisted on count for the optimizer."""

    def __init__(self, resume: Resume) -> None:
        self.state, self.insisted = resume.state, bool(resume.insisted)
        self.fresh: list[dict[str, Any]] = []

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        """The optimizer and its schedule are made, but not restored yet."""
        schedule = trainer.lr_scheduler_configs[0].scheduler
        self.horizon = getattr(schedule, "horizon", None)
        if self.horizon != self.state.horizon and not self.insisted:
            raise user_error(
                "trainer.max_steps",
                f"the schedule of the state was made for {self.state.horizon} optimizer steps, not {self.horizon}",
                "keep the length; a run can be made longer with scheduler=constant, or by adapter.weights=FILE",
            )
        total = trainer.estimated_stepping_batches
        if self.state.step >= total:
            print(f"resume: nothing left to do, the state is at step {self.state.step} of {total:.0f}")
        settings = {"lr", "initial_lr", *getattr(module.make_optimizer, "keywords", ())}
        groups = trainer.optimizers[0].param_groups
        self.fresh = [{key: value for key, value in group.items() if key in settings} for group in groups]

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not self.insisted:
            return
        for group, fresh in zip(trainer.optimizers[0].param_groups, self.fresh, strict=True):
            group.update(fresh)
        schedule = trainer.lr_scheduler_configs[0].scheduler
        if isinstance(schedule, Schedule):
            schedule.rebase(self.horizon)
