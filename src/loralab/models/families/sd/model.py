"""Stable Diffusion 1.x and 2.x, which differ by values only."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from loralab.models import load
from loralab.models.families.sd.sampling import flow_config, make_scheduler
from loralab.models.family import Family
from loralab.models.target import Target
from loralab.types import Conditioning


class StableDiffusion(Family):
    """A UNet2DConditionModel that reads the states of CLIP."""

    def targets(self, part: str) -> list[Target]:
        """Some classes of some versions of transformers keep their layers under `text_model`, others don't."""
        targets = super().targets(part)
        if part not in self.encoders or hasattr(self.text_encoders[part], "text_model"):
            return targets
        return [target._replace(path=target.path.removeprefix("text_model.")) for target in targets]

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = self.denoiser.conv_in.weight.dtype
        added = {name: value.to(dtype) for name, value in conditioning.added.items()}
        if conditioning.pooled is not None:
            added["text_embeds"] = conditioning.pooled.to(dtype)
        hidden = conditioning.hidden.to(dtype)
        out = self.denoiser(noisy.to(dtype), timesteps, hidden, added_cond_kwargs=added or None, return_dict=False)
        return out[0].float()

    def scheduler(self) -> Any:
        """The base's own, with the prediction type and zero-terminal SNR applied."""
        return make_scheduler(self._scheduler, self.process.prediction, self.process.zero_terminal_snr)


def follow_flow(base: load.Base, shift: float | None) -> None:
    """Has a flow sampled along its line, with this shift of the sigmas; None: the base's own, or the usual one."""
    if base.process.prediction == "flow":
        base.scheduler = flow_config(base.scheduler, shift)
