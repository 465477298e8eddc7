"""The diffusers scheduler that pictures are sampled with."""

from __future__ import annotations

from collections.abc import Mapping
from pkgutil import resolve_name
from typing import Any

SCHEDULERS = {
    *("DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler"),
    *("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
}
"""Those that base models come with; others are replaced by DDIM."""

ZERO_SNR = {"DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"}
"""Those that can start from pure noise; trailing timesteps then begin at the last one (arXiv 2305.08891)."""


def make_scheduler(config: Mapping[str, Any], prediction_type: str, zero_terminal_snr: bool) -> Any:
    """A diffusers scheduler from its config, with this prediction type and SNR at the end."""
    name = config.get("_class_name", "DDIMScheduler")
    if name not in (ZERO_SNR if zero_terminal_snr else SCHEDULERS):
        name = "DDIMScheduler"
    changes: dict[str, Any] = {"prediction_type": prediction_type}
    if zero_terminal_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = resolve_name(f"diffusers.{name}")
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    return scheduler.from_config({**known, **changes})
