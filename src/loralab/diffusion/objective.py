"""What training minimises: the error of a denoising prediction, a number per sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from loralab.diffusion.loss import Loss
from loralab.diffusion.noise import Noise, noise_for, to_device
from loralab.diffusion.predictions import meaningless
from loralab.diffusion.process import Process
from loralab.diffusion.tag_rarity import TagRarity, Tags
from loralab.diffusion.timesteps import Timesteps, timesteps_for
from loralab.diffusion.weighting import Weighting
from loralab.errors import UserError
from loralab.schema.ranges import Exponent, NonNegative
from loralab.types import Batch

Predict = Callable[[Tensor, Tensor], Tensor]
"""predict(noisy (B, C, h, w), timesteps (B,)) -> prediction (B, C, h, w)."""
PredictorOf = Callable[[list[str]], Predict]
"""The prediction conditioned on captions (B)."""


@dataclass(frozen=True, slots=True)
class Losses:
    """Of one batch, sample by sample."""

    loss: Tensor
    """(B,) with all weights; its mean is what training minimises."""
    unweighted: Tensor
    """(B,) detached, before any weight: comparable between runs that weigh differently."""
    timesteps: Tensor
    """(B,) on the CPU."""


class Objective:
    """Draws noise and timesteps, gets a prediction, and weights its error.

    The order is that of sd-scripts: loss × mask → mean of each sample → × sample weight → × timestep weights.

    noise: changes of the plain noise by name, applied in the order given.
    weighting: timestep weights by name; their product counts.
    prior_loss_weight: of regularisation images.
    tag_weighting: the power with which rare tags of the data count more (see TagRarity); 0 = off.
    preservation_weight: of the distance to what the frozen base predicts for `preservation_caption`, added to each
    sample's loss, so that it changes nothing else, without regularisation images; 0 = off.
    preservation_caption: null = the sample's own caption.
    """

    def __init__(
        self,
        noise: dict[str, Noise],
        timesteps: Timesteps,
        loss: Loss,
        weighting: dict[str, Weighting],
        prior_loss_weight: NonNegative = 1.0,
        tag_weighting: Exponent = 0.0,
        preservation_weight: NonNegative = 0.0,
        preservation_caption: str | None = "",
        tags: Tags | None = None,
    ) -> None:
        self.options: dict[str, object] = {f"objective.noise.{name}": change for name, change in noise.items()}
        self.options |= {f"objective.weighting.{name}": factor for name, factor in weighting.items()}
        self.noise = list(noise.values())
        self.timesteps = timesteps
        self.loss = loss
        self.weighting = list(weighting.values())
        self.prior_loss_weight = prior_loss_weight
        self.tag_weighting = tag_weighting
        self.preservation_weight = preservation_weight
        self.preservation_caption = preservation_caption
        tags = tags or Tags()
        self.rarity, self.tags_of = TagRarity(tags.counts, tag_weighting), tags.of

    def check(self, process: Process) -> None:
        """Raises a UserError for options that have no meaning for what the model predicts."""
        if problems := list(meaningless(self.options, process.prediction)):
            raise UserError(*problems)

    def captions(self, batch: Batch) -> list[str]:
        """Those that the prediction is conditioned on."""
        return batch.captions

    def further(self, batch: Batch, adapted: PredictorOf, base: PredictorOf) -> dict[str, Any]:
        """The further predictions that it wants, by the adapted model or by the frozen base."""
        if not self.preservation_weight:
            return {}
        caption = self.preservation_caption
        captions = batch.captions if caption is None else [caption] * len(batch)
        prior = {} if caption is None else {"predict_prior": adapted(captions)}
        return {"predict_base": base(captions), **prior}

    def __call__(
        self,
        predict: Predict,
        latents: Tensor,
        process: Process,
        batch: Batch,
        seed: int,
        *,
        timesteps: Tensor | None = None,
        predict_base: Predict | None = None,
        predict_prior: Predict | None = None,
    ) -> Losses:
        """The losses of a batch's scaled latents (B, C, h, w).

        `timesteps` (B,) takes the place of drawn ones (validation).
        For preservation_weight, predict_base is the base's prediction for preservation_caption (adapter off) and
        predict_prior the adapted model's; without predict_prior, the prediction for the sample's own caption.
        """
        steps, there, noisy, target_noise = self.noised(latents, process, batch, seed, timesteps)
        prediction = predict(noisy, there).float()
        target = process.target(latents, target_noise, there)
        unweighted = masked_mean(self.loss(prediction, target, there, process), batch.mask)

        loss = unweighted
        if self.preservation_weight:
            assert predict_base is not None, "preservation_weight needs predict_base"
            with torch.no_grad():
                base = predict_base(noisy, there).float()
            adapted = prediction if predict_prior is None else predict_prior(noisy, there).float()
            loss = loss + self.preservation_weight * ((adapted - base) ** 2).mean((1, 2, 3))
        return Losses(self.weighted(loss, batch, process, there), unweighted.detach(), steps)

    def noised(
        self, latents: Tensor, process: Process, batch: Batch, seed: int, timesteps: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The timesteps (B,) on the CPU and on the device, the noisy latents, and the noise that is to be predicted."""
        times = timesteps_for(self.timesteps, batch, seed) if timesteps is None else timesteps.cpu()
        steps = process.timesteps(times)
        there = to_device(steps, latents.device)
        target_noise, noise = noise_for(self.noise, latents, batch.draws, seed)
        return steps, there, process.add_noise(latents, noise, there), target_noise

    def weighted(self, loss: Tensor, batch: Batch, process: Process, timesteps: Tensor) -> Tensor:
        """(B,) times the weights of samples and timesteps."""
        loss = loss * self.sample_weight(batch)
        for factor in self.weighting:
            loss = loss * factor(process.snr(timesteps), process)
        return loss

    def sample_weight(self, batch: Batch) -> Tensor:
        """(B,) the folder's weight, times that of regularisation images, times that of the tags."""
        weight = torch.where(batch.is_reg, batch.weight * self.prior_loss_weight, batch.weight)
        if self.tag_weighting:
            rarity = torch.tensor([self.rarity.weight(self.tags_of(item)) for item in batch.items])
            weight = weight * to_device(rarity, weight.device)
        return weight


def masked_mean(loss: Tensor, mask: Tensor | None) -> Tensor:
    """The mean (B,) over all elements of loss (B, C, h, w) × mask (B, 1, H, W), the mask averaged down to h × w.

    It is not divided by the mask's sum: a sample of which little counts has a small loss.
    """
    if mask is not None:
        loss = loss * interpolate(mask.float(), loss.shape[2:], mode="area")
    return loss.mean((1, 2, 3))
