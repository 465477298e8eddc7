"""Transformers that predict a rectified flow: what the families of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

from loralab.errors import user_error
from loralab.models.family import Family
from loralab.models.load import Base

Attention = Literal["auto", "sdpa", "xformers", "eager"]
BACKENDS = {"xformers": "xformers", "eager": "_native_math"}
"""As diffusers calls them; its usual one is torch's scaled_dot_product_attention."""


class FlowFamily(Family):
    """Samples by Euler's method along sigmas that are evenly apart before the scheduler shifts them, from 1 to
    1 / steps and then to 0, as diffusers' pipelines of such models do."""

    def scheduler(self) -> Any:
        return FlowMatchEulerDiscreteScheduler.from_config(dict(self._scheduler))

    def schedule(self, steps: int, height: int, width: int) -> Any:
        scheduler = self.scheduler()
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
        return scheduler


def shifted(config: Mapping[str, Any], shift: float | None) -> dict[str, Any]:
    """The config of a scheduler with this shift of the sigmas, the same for all sizes; None: as it is."""
    return {**config, **({} if shift is None else {"shift": shift, "use_dynamic_shifting": False})}


def set_attention(base: Base, attention: Attention) -> None:
    """Of a transformer and its text encoders."""
    for encoder in base.text_encoders.values():
        if hasattr(encoder, "set_attn_implementation"):  # one of transformers
            encoder.set_attn_implementation("eager" if attention == "eager" else "sdpa")
    if attention == "xformers" and not torch.cuda.is_available():
        found = "xformers needs a CUDA device, but none was found"
        raise user_error("model.attention", found, "set model.attention=auto")
    if attention in BACKENDS:
        base.denoiser.set_attention_backend(BACKENDS[attention])
