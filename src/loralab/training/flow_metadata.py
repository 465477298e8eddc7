"""How the timesteps of a flow are drawn and weighted, in the words of sd-scripts' metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loralab.schema.tree import get


def flow(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`ss_*` of sd-scripts' scripts for flows; empty for a distribution of the user's own.

    Those of `sigma` are turned round there: `ss_logit_mean` above 0 is for clean timesteps.
    """
    timesteps = get(settings, "objective.timesteps") or {}
    shift, is_shifted = timesteps.get("shift", 1.0), timesteps.get("shift", 1.0) != 1
    weighting = get(settings, "objective.weighting") or {}
    told = {
        "ss_model_prediction_type": "raw",
        "ss_discrete_flow_shift": shift,
        "ss_sigmoid_scale": 1.0,
        "ss_logit_mean": 0.0,
        "ss_logit_std": 1.0,
        "ss_mode_scale": 1.29,
        "ss_weighting_scheme": next((name for name in ("sigma_sqrt", "cosmap") if name in weighting), "none"),
    }
    match str(timesteps.get("_target_")).rpartition(".")[2]:
        case "Uniform":
            return told | {"ss_timestep_sampling": "sigma" if is_shifted else "uniform"}
        case "LogitNormal" if timesteps["mean"] == 0:
            sampling = "shift" if is_shifted else "sigmoid"
            return told | {"ss_timestep_sampling": sampling, "ss_sigmoid_scale": timesteps["std"]}
        case "LogitNormal":
            logit = {"ss_logit_mean": -timesteps["mean"], "ss_logit_std": timesteps["std"]}
            return told | logit | {"ss_timestep_sampling": "sigma", "ss_weighting_scheme": "logit_normal"}
        case "Mode":
            mode = {"ss_weighting_scheme": "mode", "ss_mode_scale": timesteps["scale"]}
            return told | mode | {"ss_timestep_sampling": "sigma"}
    return {}
