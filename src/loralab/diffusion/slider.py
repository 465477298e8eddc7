"""Concept sliders: an adapter that moves along what tells two prompts apart (arXiv 2311.12092)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from loralab.diffusion.loss import Loss
from loralab.diffusion.noise import Noise
from loralab.diffusion.objective import Losses, Objective, Predict, PredictorOf, masked_mean
from loralab.diffusion.process import Process
from loralab.diffusion.tag_rarity import Tags
from loralab.diffusion.timesteps import Timesteps
from loralab.diffusion.weighting import Weighting
from loralab.schema.ranges import Exponent, NonNegative, Positive
from loralab.types import Batch


class Slider(Objective):
    """The prediction for `target` shall be the base's, moved by `guidance` times the difference that the base sees
    between `positive` and `negative` (eq. 7).

    The images only say where: their noisy latents are what is predicted on. target: null = the sample's own caption.
    """

    def __init__(
        self,
        noise: dict[str, Noise],
        timesteps: Timesteps,
        loss: Loss,
        weighting: dict[str, Weighting],
        positive: str,
        negative: str = "",
        target: str | None = None,
        guidance: Positive = 4.0,
        prior_loss_weight: NonNegative = 1.0,
        tag_weighting: Exponent = 0.0,
        tags: Tags | None = None,
    ) -> None:
        super().__init__(noise, timesteps, loss, weighting, prior_loss_weight, tag_weighting, tags=tags)
        self.positive, self.negative, self.target, self.guidance = positive, negative, target, guidance

    def captions(self, batch: Batch) -> list[str]:
        return batch.captions if self.target is None else [self.target] * len(batch)

    def further(self, batch: Batch, adapted: PredictorOf, base: PredictorOf) -> dict[str, Any]:
        ends = {"positive": self.positive, "negative": self.negative}
        return {
            "predict_base": base(self.captions(batch)),
            **{f"predict_{end}": base([prompt] * len(batch)) for end, prompt in ends.items()},
        }

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
        predict_positive: Predict | None = None,
        predict_negative: Predict | None = None,
        **further: Predict | None,
    ) -> Losses:
        """The losses of a batch's scaled latents (B, C, h, w); the predictions are those of `further`."""
        assert predict_base is not None, "a slider needs what the base predicts"
        assert predict_positive is not None, "for one prompt"
        assert predict_negative is not None, "and for the other"
        steps, there, noisy, _ = self.noised(latents, process, batch, seed, timesteps)
        with torch.no_grad():
            towards = predict_positive(noisy, there).float() - predict_negative(noisy, there).float()
            goal = predict_base(noisy, there).float() + self.guidance * towards
        prediction = predict(noisy, there).float()
        loss = masked_mean(self.loss(prediction, goal, there, process), batch.mask)
        return Losses(self.weighted(loss, batch, process, there), loss.detach(), steps)
