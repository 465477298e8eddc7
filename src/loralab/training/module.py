"""The LightningModule: from a batch to a loss, and what the optimizer steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from loralab import signals
from loralab.adapters.inject import AdapterSet
from loralab.diffusion.noise import normal
from loralab.diffusion.objective import Losses, Objective, Predict
from loralab.errors import user_error
from loralab.models.family import Family
from loralab.optim.build import build_optimizer
from loralab.optim.schedule_free import evaluation_weights
from loralab.ranks import OutOfStep
from loralab.rng import derive, seed_default
from loralab.training.counters import place, position
from loralab.training.ema import EMA
from loralab.training.gradients import Gradients
from loralab.training.run_state import RunState
from loralab.types import Batch, Conditioning

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
MakeSchedule = Callable[..., Any]


class LoraModule(L.LightningModule):
    """Trains the adapters of a frozen base model.

    Only the adapters are in its state dict; the base is loaded anew from its own files. All randomness is drawn
    from generators seeded by what it is for (see rng), so the module holds no random state.
    """

    def __init__(
        self,
        family: Family,
        adapters: AdapterSet,
        objective: Objective,
        make_optimizer: MakeOptimizer,
        make_schedule: MakeSchedule,
        lr: float | None,
        seed: int,
        ema: EMA,
        run: RunState,
    ) -> None:
        super().__init__()
        self.strict_loading = False
        self.family = family
        self.base = nn.ModuleDict(family.always_there())  # registered, so that it moves to the device
        self.adapters = adapters
        self.weights = dict(adapters.named_parameters())
        self._ddp_params_and_buffers_to_ignore = self._frozen()
        self.objective = objective
        self.process = family.process
        objective.check(self.process)
        self.make_optimizer, self.make_schedule, self.lr, self.seed = make_optimizer, make_schedule, lr, seed
        self.ema = ema
        self.run = run
        self.last_losses: Losses
        self._gradients: Gradients | None = None
        self._texts: dict[str, Conditioning] = {}

    def _frozen(self) -> list[str]:
        """Names of all that no other process needs to be sent: every one has loaded it."""
        own = {id(tensor) for tensor in self.weights.values()}
        tensors = [*self.named_parameters(remove_duplicate=False), *self.named_buffers(remove_duplicate=False)]
        return [name for name, tensor in tensors if id(tensor) not in own]

    def on_train_start(self) -> None:
        for optimizer in self.trainer.optimizers:
            if hasattr(optimizer, "train"):  # schedule-free ones step in a mode of their own
                optimizer.train()  # pyright: ignore[reportAttributeAccessIssue]
        self.run.pace.start()

    def on_train_end(self) -> None:
        self.run.pace.stop()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # network, rank and module dropout draw from the global generator
        seed_default(derive(self.seed, "network", self.global_step, batch_idx, self.global_rank), self.device)
        self.last_losses = self.losses(batch, self.seed)
        loss = self.last_losses.loss.mean()
        self.run.pace.count(len(batch) * self.trainer.world_size)
        self.run.loss = loss.detach() if self.run.loss is None else self.run.loss.lerp(loss.detach(), 0.02)
        self.log("loss_step", loss, batch_size=len(batch), sync_dist=True)
        # an epoch's is logged by Monitor, later: at its end Lightning would wait for the device
        self.log("loss", loss, on_step=True, on_epoch=True, logger=False, batch_size=len(batch), sync_dist=True)
        if not loss.requires_grad:  # module dropout disabled every adapter: the gradient is zero
            loss = loss + 0 * sum(weight.sum() for weight in self.adapters.parameters())
        return loss

    def losses(self, batch: Batch, seed: int) -> Losses:
        """The objective of each sample (B,), its randomness drawn for the batch's draws under `seed`."""
        with torch.no_grad():
            latents = self.latents(batch, seed)  # (B, C, h, w)
        return self.objective(
            self.predictor(batch, self.objective.captions(batch)),
            latents,
            self.process,
            batch,
            seed,
            **self.objective.further(batch, partial(self.predictor, batch), partial(self._base_predictor, batch)),
        )

    def predictor(self, batch: Batch, captions: list[str]) -> Predict:
        """The prediction for a batch's noisy latents, conditioned on these captions."""
        if batch.text is not None and captions is not batch.captions:  # the cache has the batch's own
            batch = replace(batch, text=[self._text(caption) for caption in captions])
        conditioning = self.family.encode_text(captions, batch)

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            self.adapters.at_timesteps(timesteps)  # until the next: backward may compute the activations again
            return self.family.predict(noisy, timesteps, conditioning)

        return predict

    def _text(self, caption: str) -> Conditioning:
        """The text of a further caption, kept: where texts are cached, nothing changes it."""
        if caption not in self._texts:
            with torch.no_grad():
                self._texts[caption] = replace(self.family.encode_text([caption]), added={})
        return self._texts[caption]

    def _base_predictor(self, batch: Batch, captions: list[str]) -> Predict:
        """The same with the adapters off."""

        def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
            with self.adapters.enabled(False):
                return self.predictor(batch, captions)(noisy, timesteps)

        return predict

    def latents(self, batch: Batch, seed: int) -> Tensor:
        """Scaled latents (B, C, h, w), the VAE's posterior sampled with each draw's own noise."""
        if batch.latent_mean is not None:
            shape = batch.latent_mean.shape[1:]
        else:
            assert batch.pixels is not None, "a batch has pixels or latents"
            shape = self.family.latent_shape(*batch.pixels.shape[-2:])
        return self.family.latents(batch, normal(seed, "vae", batch.draws, shape, self.device))

    def configure_optimizers(self) -> dict[str, Any]:
        """When the modules are on their device."""
        optimizer = build_optimizer(self.make_optimizer, self.adapters.parameter_groups(self.lr))
        schedule = self.make_schedule(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        self.run.stages.end("device")
        # a plateau schedule is stepped after a validation, by it
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step", "reduce_on_plateau": False},
        }

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        signals.hold()  # until Health finds the step whole
        self.run.between_steps = False

    def gradients(self) -> Gradients:
        """Those of this optimizer step, before they are clipped; for on_before_optimizer_step."""
        if self._gradients is None:
            self._gradients = Gradients.of(self.weights)
        return self._gradients

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None, *_: Any, **__: Any
    ) -> None:
        """To this norm of all gradients together."""
        if gradient_clip_val:
            norm = torch.linalg.vector_norm(self.gradients().norms)
            nn.utils.clip_grads_with_norm_(self.weights.values(), gradient_clip_val, norm)
        self._gradients = None

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.run.skipped = False
        groups = self.trainer.optimizers[0].param_groups
        before = [{key: value for key, value in group.items() if key != "params"} for group in groups]
        super().optimizer_step(*args, **kwargs)
        self.run.position = position(self.trainer)
        if self.run.skipped:  # without gradients nothing was changed but some optimizers' count of steps
            for group, counts in zip(groups, before, strict=True):
                group.update(counts)
            return
        self.adapters.limit_norms()
        if self.ema.decay:
            self.ema.update(self.weights)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if not (self.run.skipped or isinstance(scheduler, ReduceLROnPlateau)):
            scheduler.step()

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Inside the block the adapter has its evaluation weights: the average, where there is one."""
        self.run.assure()
        averaged = self.ema.swapped(self.weights) if self.ema.decay else nullcontext()
        with signals.held(), evaluation_weights(self.trainer.optimizers[0]), averaged:
            yield

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Inside the block the evaluation weights are used without dropout and gradients, in training precision."""
        self.run.make_room()
        with self.evaluation_weights(), self.at_rest():
            yield

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Inside the block there are no dropout and no gradients; the precision is that of training."""
        in_training = [module for module in self.modules() if module.training]
        self.adapters.at_timesteps(None)
        for module in in_training:
            module.training = False
        try:
            with torch.no_grad(), self.trainer.precision_plugin.forward_context():
                yield
        except Exception as error:
            if self.family.is_shared_out:
                raise OutOfStep(str(error)) from error
            raise
        finally:
            self.adapters.at_timesteps(None)
            for module in in_training:
                module.training = True

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:
        """Of the adapters alone."""
        return self.adapters.state_dict(*args, prefix=f"{prefix}adapters.", **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ema"] = self.ema.state_dict()
        checkpoint["position"] = self.run.position
        checkpoint["compiled"] = self.run.compiled
        place(checkpoint["loops"], *self.run.position, int(self.trainer.num_training_batches), self.global_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = {name: tensor.shape for name, tensor in self.state_dict().items()}
        if own != {name: tensor.shape for name, tensor in checkpoint["state_dict"].items()}:
            raise user_error(
                "resume",
                "the state's adapters differ from this run's",
                "use the adapter and targets settings of the state",
            )
        self.ema.load_state_dict(checkpoint["ema"])
        epoch, batch = checkpoint["position"]
        self.run.position = epoch, batch
        self.run.compiled = checkpoint.get("compiled")
