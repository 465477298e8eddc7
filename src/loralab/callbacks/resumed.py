"""What a resumed run does beside what Lightning restores."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer

from loralab.errors import user_error
from loralab.optim.schedules import Schedule
from loralab.training.counters import place
from loralab.training.internals import loaded_checkpoint
from loralab.training.module import LoraModule
from loralab.training.resume import Resume


class Resumed(Callback):
    """Refuses a state that does not match the run; with resume_force=true, puts the new settings into effect."""

    def __init__(self, resume: Resume) -> None:
        self.state, self.force, self.differing = resume.state, resume.force, resume.differing

    def on_fit_start(self, trainer: Trainer, module: LoraModule) -> None:
        """The optimizer and its schedule are made, but neither they nor the counters are restored yet."""
        optimizer, schedule = trainer.optimizers[0], trainer.lr_scheduler_configs[0].scheduler
        checkpoint = loaded_checkpoint(trainer)
        saved = checkpoint["optimizer_states"][0]["param_groups"]
        self.horizon = getattr(schedule, "horizon", None)
        if self.horizon != self.state.horizon and not self.force:
            raise user_error(
                "trainer.max_steps",
                f"the state's schedule was made for {self.state.horizon} optimizer steps, not {self.horizon}",
                "keep the length; to train longer, use scheduler=constant or start from adapter.weights=FILE",
            )
        kinds = {"optimizer._target_", "scheduler._target_"} & set(self.differing)
        if kinds or [len(group["params"]) for group in saved] != [len(g["params"]) for g in optimizer.param_groups]:
            raise user_error(
                "resume_force",
                "the optimizer, the schedule or the trained tensors are not those of the state",
                "keep those of the state, or start from its adapter: adapter.weights=FILE",
            )
        total = trainer.estimated_stepping_batches
        trainer.fit_loop.setup_data()  # which says how many batches there are
        module.run.position = epoch, batch = trainer.datamodule.begins_at()  # type: ignore[attr-defined]
        place(checkpoint["loops"], epoch, batch, int(trainer.num_training_batches), self.state.step)
        if self.state.step >= trainer.max_steps > 0 or epoch >= (trainer.max_epochs or 0) > 0:
            print(f"resume: nothing left to do, the state is at step {self.state.step} of {total:.0f}")
        self.fresh = self._forced_settings(optimizer)

    def _forced_settings(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """The new settings of each parameter group, of those that differ."""
        keys = {setting.split(".")[1] for setting in self.differing if setting.startswith("optimizer.")}
        if "lr" in keys or any(setting.startswith("targets.") for setting in self.differing):
            keys |= {"lr", "initial_lr"}
        return [{key: value for key, value in group.items() if key in keys} for group in optimizer.param_groups]

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        for group, fresh in zip(trainer.optimizers[0].param_groups, self.fresh, strict=True):
            group.update(fresh)
        schedule = trainer.lr_scheduler_configs[0].scheduler
        if self.force and isinstance(schedule, Schedule):
            schedule.rebase(self.horizon)
