"""Stops runs whose loss or gradients are not finite, or whose adapter does not change."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from loralab import signals
from loralab.callbacks.due import steps_done
from loralab.data.dataset import collate
from loralab.errors import Diverged, Problem, UserError, user_error
from loralab.schema.ranges import AtLeastOne
from loralab.training.arriving import Arriving
from loralab.training.bad_module import first_bad_module
from loralab.training.internals import dump_checkpoint
from loralab.training.kept import Kept
from loralab.training.module import LoraModule
from loralab.training.movement import Movement
from loralab.training.output import Output
from loralab.training.rescue import rescue
from loralab.training.state import States
from loralab.types import Batch, Item, Place

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Part:
    """One batch of an optimizer step."""

    places: list[Place]
    items: list[Item]
    losses: Tensor
    """(B,)"""


@dataclass(slots=True)
class Step:
    """What is known of an optimizer step before it is made; its tensors stay on their device."""

    number: int
    """Counted from 1."""
    parts: list[Part]
    names: list[str]
    norms: Tensor
    """(N,) of the gradients of the tensors of these names."""
    finite: Arriving = field(init=False)
    """() bool."""

    def __post_init__(self) -> None:
        self.finite = Arriving(torch.cat([*(part.losses for part in self.parts), self.norms]).isfinite().all())


class Health(Callback):
    """Watches losses, gradients and weights.

    on_nan: what to do when an optimizer step's loss or gradient is not finite: `stop` ends the run before it,
    `skip` skips and counts it. With fp16 it is always skipped: that is how its scaler finds its scale.
    skips_in_a_row: this many consecutive skips end the run. stop_if_unchanged: whether tensors that do not learn end
    it.

    On a CPU, and where steps may be skipped, every step is checked before it is made. On a GPU that would mean waiting:
    there the steps that were made are checked every trainer.log_every_n_steps steps, while the next one is computed,
    and before weights are used or saved. If a step since the last check was bad, the state at that check is kept.
    Whatever error ends the training, adapter and state as of the last good step are saved.
    """

    def __init__(
        self,
        *,
        on_nan: Literal["stop", "skip"] = "stop",
        skips_in_a_row: AtLeastOne = 20,
        stop_if_unchanged: bool = True,
        output: Output,
        states: States,
    ) -> None:
        self.on_nan, self.skips_in_a_row, self.output, self.states = on_nan, skips_in_a_row, output, states
        self.watches_movement = stop_if_unchanged
        self.movement: Movement | None = None
        self.skipped = self.in_a_row = 0
        self.parts: list[Part] = []
        self.unseen: list[Step] = []
        self.good: tuple[int, tuple[int, int], dict[str, Any]] | None = None
        """Step, position and state at the last check; None where every step is checked."""
        self.kept = Kept()
        self.begun: int | None = None
        """The optimizer step at which this training began; None before, and when all that can be is saved."""

    def on_fit_start(self, trainer: Trainer, module: LoraModule) -> None:
        if trainer.estimated_stepping_batches < 1:
            raise user_error(
                "trainer", "no optimizer steps to run", "raise trainer.max_steps or trainer.limit_train_batches"
            )
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self.skips = scaled or self.on_nan == "skip"
        self.waits = self.skips or module.device.type == "cpu"

    def on_train_start(self, trainer: Trainer, module: LoraModule) -> None:
        self.movement = Movement(module.adapters, module.family) if self.watches_movement else None
        self._keep(trainer, module)
        module.run.assure = lambda: self.look(trainer, module)
        self.begun = trainer.global_step

    def on_train_batch_start(self, trainer: Trainer, module: LoraModule, batch: Batch, batch_idx: int) -> None:
        self.batch = batch

    def on_after_backward(self, trainer: Trainer, module: LoraModule) -> None:
        places = [Place(draw, trainer.global_step) for draw in self.batch.draws]
        self.parts.append(Part(places, self.batch.items, module.last_losses.loss.detach()))

    def on_before_optimizer_step(self, trainer: Trainer, module: LoraModule, optimizer: Optimizer) -> None:
        gradients = module.gradients()
        self.unseen.append(Step(trainer.global_step + 1, self.parts, list(gradients.by_name), gradients.norms))
        self.parts = []
        if self.waits:
            self.look(trainer, module)
        elif trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.look(trainer, module, but=1)
        if module.run.skipped:
            optimizer.zero_grad()  # to None, and a tensor without a gradient is skipped
        elif self.movement and any(group["lr"] > 0 for group in optimizer.param_groups):
            self.movement.note(gradients.by_name)

    def on_train_batch_end(self, trainer: Trainer, module: LoraModule, *_: object) -> None:
        module.run.between_steps = True
        signals.release()
        if not self.movement or not steps_done(trainer):
            return
        if dead := self.movement.dead(module.weights):
            raise user_error(
                "health.stop_if_unchanged",
                f"adapter tensors have not changed in {self.movement.steps} optimizer steps: {_some(dead)}",
                "raise optimizer.lr, exclude these modules by targets.patterns, or set health.stop_if_unchanged=false",
            )

    def on_train_end(self, trainer: Trainer, module: LoraModule) -> None:
        self.look(trainer, module)

    def on_exception(self, trainer: Trainer, module: LoraModule, exception: BaseException) -> None:
        """Of several processes that no longer go in step, only the adapter is saved."""
        begun, self.begun = self.begun, None
        try:
            if begun is not None and trainer.global_step > begun:
                self._rescue(trainer, module, alone=trainer.world_size == 1)
        finally:
            signals.release()

    def _rescue(self, trainer: Trainer, module: LoraModule, alone: bool) -> None:
        if alone:
            try:
                self.look(trainer, module)
            except UserError:  # a bad step; what was good before it is saved
                return
        self.unseen = []  # the other processes no longer look: the weights are checked where they are saved
        place = trainer.global_step, module.run.position
        rescue(trainer, module, self.output, self.states, *place, with_state=alone and module.run.between_steps)

    def look(self, trainer: Trainer, module: LoraModule, but: int = 0) -> None:
        """Checks the steps since the last check, but so many of the last; skips a bad one or ends the run."""
        count = len(self.unseen) - but
        steps, self.unseen = self.unseen[:count], self.unseen[count:]
        if not steps:
            return
        finite = [bool(step.finite.value()) for step in steps]
        if trainer.strategy.reduce_boolean_decision(all(finite)):
            self.in_a_row = 0
            self._keep(trainer, module)
            return
        bad = steps[finite.index(False)] if False in finite else None
        self.in_a_row += 1
        if not self.skips or self.in_a_row >= self.skips_in_a_row:
            self._stop(trainer, module, bad)
        self.skipped += 1
        module.run.skipped = True
        if self.on_nan == "skip":
            log.warning("skipped: %s", _described(bad))

    def _keep(self, trainer: Trainer, module: LoraModule) -> None:
        if not self.waits:
            with signals.held():
                checkpoint = self.kept.copy(dump_checkpoint(trainer))
                self.good = trainer.global_step, module.run.position, checkpoint

    def _stop(self, trainer: Trainer, module: LoraModule, bad: Step | None) -> None:
        step, position, checkpoint = self.good or (trainer.global_step, module.run.position, None)
        self.begun = None
        if checkpoint:  # weights and optimizer of now may hold nothing finite
            self.kept.wait()
            module.load_state_dict(checkpoint["state_dict"], strict=False)
            module.ema.load_state_dict(checkpoint["ema"])
            trainer.optimizers[0].load_state_dict(checkpoint["optimizer_states"][0])
        remedy = "check these images; lower optimizer.lr; set trainer.precision=32-true; or set health.on_nan=skip"
        if step and (state := rescue(trainer, module, self.output, self.states, step, position, checkpoint)):
            remedy += (
                f"\n    the last good state was saved: resume={state} (add resume_force=true if a setting changed)"
            )
        found = _described(bad)
        if bad and not module.family.is_shared_out:  # one process cannot compute it again by itself
            found += f"; first bad value: {_origin(trainer, module, bad)}"
        row = f", {self.in_a_row} such steps in a row" if self.in_a_row > 1 else ""
        raise Diverged(Problem("health.on_nan", found + row, remedy))

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]


def _described(bad: Step | None) -> str:
    """The step and its images: those whose loss is not finite, else all of them."""
    if bad is None:
        return "a loss or gradient on another device is not finite"
    losses = torch.cat([part.losses for part in bad.parts]).isfinite().tolist()
    items = [item for part in bad.parts for item in part.items]
    guilty = [item for item, finite in zip(items, losses, strict=True) if not finite]
    what = "loss" if guilty else "gradient"
    return (
        f"the {what} of optimizer step {bad.number} is not finite (images: {_some([i.path for i in guilty or items])})"
    )


def _origin(trainer: Trainer, module: LoraModule, bad: Step) -> str:
    """The first module that outputs a bad value for the step's batches, or the first tensor with a bad gradient."""
    dataset = trainer.train_dataloader.dataset  # type: ignore[union-attr]
    for part in bad.parts:
        if not part.losses.isfinite().all():
            batch = collate([dataset[place] for place in part.places])
            if name := first_bad_module(module, batch):
                return name
    finite = bad.norms.isfinite().tolist()
    return bad.names[finite.index(False)] if False in finite else "the loss itself"


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
