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


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0}
"""Config of the scheduler of flows that come without one. Their makers advise a shift from 3 to 8 or 12."""


def flow_config(config: Mapping[str, Any], shift: float | None) -> dict[str, Any]:
    """The config of a flow's scheduler: the base's own, if it is one; shift: of its sigmas, None: its own."""
    own = dict(config) if config.get("_class_name") == FLOW["_class_name"] else FLOW
    # a shift by resolution is defined by tokens, which a UNet does not have
    return {**own, "use_dynamic_shifting": False, **({} if shift is None else {"shift": shift})}


def make_scheduler(config: Mapping[str, Any], prediction_type: str, zero_terminal_snr: bool) -> Any:
    """A diffusers scheduler from its config, with this prediction type and SNR at the end; a flow's as it is."""
    if prediction_type == "flow":
        return resolve_name(f"diffusers.{FLOW['_class_name']}").from_config(config)
    name = config.get("_class_name", "DDIMScheduler")
    if name not in (ZERO_SNR if zero_terminal_snr else SCHEDULERS):
        name = "DDIMScheduler"
    changes: dict[str, Any] = {"prediction_type": prediction_type}
    if zero_terminal_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = resolve_name(f"diffusers.{name}")
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    return scheduler.from_config({**known, **changes})
