"""The LightningModule: from a batch to a loss, and what the optimizer steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from loralab.adapters.inject import AdapterSet
from loralab.diffusion.objective import Losses, Objective, Predict
from loralab.diffusion.schedule import NoiseSchedule
from loralab.models.family import Family
from loralab.rng import derive, generator
from loralab.types import Batch

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
        lr: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.strict_loading = False
        self.family = family
        self.base = nn.ModuleDict({**family.parts(), "vae": family.vae})  # registered, so that it moves to the device
        self.adapters = adapters
        self.objective = objective
        self.schedule = NoiseSchedule(zero_terminal_snr=family.zero_terminal_snr)
        self.make_optimizer, self.make_schedule, self.lr, self.seed = make_optimizer, make_schedule, lr, seed

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        # network, rank and module dropout draw from the global generator
        torch.manual_seed(derive(self.seed, "network", self.global_step, batch_idx, self.global_rank))
        self.last_losses = self.losses(batch, self.seed)
        loss = self.last_losses.loss.mean()
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=len(batch))
        return loss

    def losses(self, batch: Batch, seed: int, timesteps: Tensor | None = None) -> Losses:
        """The objective of each sample (B,), its randomness drawn for the batch's draws under `seed`.

        `timesteps` (B,) takes the place of drawn ones.
        """
        with torch.no_grad():
            latents = self.latents(batch, seed)  # (B, 4, h, w)
        return self.objective(
            self._predictor(batch, batch.captions),
            latents,
            self.schedule,
            self.family.prediction_type,
            batch.draws,
            seed,
            batch.mask,
            weight=batch.weight,
            is_reg=batch.is_reg,
            captions=[item.caption for item in batch.items],
            timesteps=timesteps,
            **self._preservation(batch),
        )

    def _predictor(self, batch: Batch, captions: list[str]) -> Predict:
        conditioning = self.family.encode_text(captions, batch)
        return lambda noisy, timesteps: self.family.predict(noisy, timesteps, conditioning)

    def _preservation(self, batch: Batch) -> dict[str, Predict]:
        """The predictions of the frozen base (adapter off) that the objective may want to stay near."""
        if not self.objective.preservation_weight:
            return {}
        caption = self.objective.preservation_caption
        captions = batch.captions if caption is None else [caption] * len(batch)

        def predict_base(noisy: Tensor, timesteps: Tensor) -> Tensor:
            with self.adapters.enabled(False):
                return self._predictor(batch, captions)(noisy, timesteps)

        prior = {} if caption is None else {"predict_prior": self._predictor(batch, captions)}
        return {"predict_base": predict_base, **prior}

    def latents(self, batch: Batch, seed: int) -> Tensor:
        """Scaled latents (B, 4, h, w), the VAE's posterior sampled with each draw's own noise."""
        shape = latent_shape(batch)
        noise = torch.stack([torch.randn(shape, generator=generator(seed, "vae", *draw)) for draw in batch.draws])
        return self.family.latents(batch, noise.to(self.device))

    def configure_optimizers(self) -> dict[str, Any]:
        groups = self.adapters.parameter_groups(self.lr)
        optimizer = self.make_optimizer(groups)
        schedule = self.make_schedule(optimizer, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("adapters.")}


def latent_shape(batch: Batch) -> tuple[int, int, int]:
    """(4, h, w) of a batch's latents."""
    if batch.latent_mean is not None:
        return tuple(batch.latent_mean.shape[1:])  # type: ignore[return-value]
    assert batch.pixels is not None, "a batch has pixels or latents"
    return 4, batch.pixels.shape[-2] // 8, batch.pixels.shape[-1] // 8
