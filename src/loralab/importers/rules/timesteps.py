"""Which timesteps are trained: their range, and how those of a flow are drawn and weighted."""

from __future__ import annotations

import math

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.models.registry import of_option

BY_RESOLUTION = {"flux_shift": (1.15, 4096), "qwen_shift": (0.9, 8192)}
"""Shifts that follow the resolution: the largest exponent, and the tokens that have it."""
USUAL_SIDE = 1024
"""Of images, where a file does not say."""
NOT_A_FLOW = "has no effect: only models that predict a flow have it"
SD_SCRIPTS = ("timestep_sampling", "weighting_scheme", "sigmoid_scale", "logit_mean", "logit_std", "mode_scale")
"""Options of sd-scripts for flows, beside discrete_flow_shift."""
FORK = ("flow_timestep_distribution", "flow_logit_mean", "flow_logit_std")
"""Those of its forks for SDXL, beside the shift."""
DEFAULTS = {"anima": "sigmoid"}
"""timestep_sampling of sd-scripts' script for a model, where it is not `sigma`."""
SHIFT = ("flow_uniform_static_ratio", "flow_uniform_shift", "flow_uniform_base_pixels")


def timesteps(foreign: Foreign, ours: Ours) -> None:
    low, high = foreign.take("min_timestep") or 0, foreign.take("max_timestep")
    high = 1000 if high is None else high
    if (low, high) != (0, 1000):
        ours.choose("objective/timesteps", "range", "min_timestep", "max_timestep")
        ours.set("objective.timesteps.low", low, "min_timestep")
        ours.set("objective.timesteps.high", high, "max_timestep")
    if is_flow(ours):
        is_fork = foreign.has("flow_model") and not foreign.has("timestep_sampling")
        (_of_a_fork if is_fork else _of_sd_scripts)(foreign, ours)
    else:
        for name in (*SD_SCRIPTS, "discrete_flow_shift", *FORK, *SHIFT):
            foreign.leave(name, NOT_A_FLOW)


def is_flow(ours: Ours) -> bool:
    """Whether the chosen model predicts a flow."""
    row = of_option(ours.chosen("model"))
    return ours.value("model.prediction_type") == "flow" or bool(row and row.predictions == ("flow",))


def _of_sd_scripts(foreign: Foreign, ours: Ours) -> None:
    """`sigma` draws by the weighting scheme, turned round; others by the sigmoid of a normal number, or evenly."""
    sampling, scheme = foreign.take("timestep_sampling"), foreign.take("weighting_scheme")
    names = ("timestep_sampling", "weighting_scheme")
    if sampling is None and foreign.absent:
        sampling = DEFAULTS.get(ours.chosen("model") or "")
    if sampling in ("sigmoid", "shift"):
        ours.choose("objective/timesteps", "logit_normal", "timestep_sampling")
        _set(foreign, ours, "objective.timesteps.std", "sigmoid_scale")
    elif scheme == "logit_normal" and sampling != "uniform":
        ours.choose("objective/timesteps", "logit_normal", *names)
        if (mean := foreign.take("logit_mean")) is not None:
            ours.set("objective.timesteps.mean", -mean or 0.0, "logit_mean")
        _set(foreign, ours, "objective.timesteps.std", "logit_std")
    elif scheme == "mode" and sampling != "uniform":
        ours.choose("objective/timesteps", "mode", *names)
        _set(foreign, ours, "objective.timesteps.scale", "mode_scale")
    elif sampling == "logsnr":  # of which half is the logit of the clean image's share
        ours.choose("objective/timesteps", "logit_normal", "timestep_sampling")
        mean, std = foreign.take("logit_mean") or 0.0, foreign.take("logit_std")
        ours.set("objective.timesteps.mean", -mean / 2 or 0.0, "timestep_sampling", "logit_mean")
        ours.set("objective.timesteps.std", (1.0 if std is None else std) / 2, "timestep_sampling", "logit_std")
    elif sampling in BY_RESOLUTION:
        ours.choose("objective/timesteps", "logit_normal", "timestep_sampling")
        _set(foreign, ours, "objective.timesteps.std", "sigmoid_scale")
        shift_by_resolution(foreign, ours, "timestep_sampling", *BY_RESOLUTION[sampling])
        return
    elif sampling in ("sigma", "uniform"):
        ours.choose("objective/timesteps", ours.chosen("objective/timesteps") or "uniform", "timestep_sampling")
    elif sampling is not None:
        why = f"not supported; valid: sigma, uniform, sigmoid, shift, logsnr, {', '.join(BY_RESOLUTION)}"
        foreign.leave("timestep_sampling", why, "objective/timesteps")
        return
    if scheme in ("sigma_sqrt", "cosmap"):
        ours.choose("objective/weighting", scheme, "weighting_scheme")
    if sampling in ("sigmoid", "uniform", "logsnr"):
        ours.set("objective.timesteps.shift", 1.0, "timestep_sampling")
    else:
        _set(foreign, ours, "objective.timesteps.shift", "discrete_flow_shift")


def shift_by_resolution(foreign: Foreign, ours: Ours, name: str, most: float = 1.15, tokens: int = 4096) -> None:
    """A shift of exp(μ), where μ rises from 0.5 at 256 tokens of 16×16 pixels to `most` at `tokens`, as FLUX has it:
    here that of the largest resolution, since the buckets of one differ little."""
    sizes = ours.value("data.resolution") or USUAL_SIDE
    sides = sizes if isinstance(sizes, list) and isinstance(sizes[0], list) else [sizes]
    seen = max(math.prod(side) if isinstance(side, list) else side**2 for side in sides) / 256
    mu = 0.5 + (most - 0.5) * (seen - 256) / (tokens - 256)
    ours.set("objective.timesteps.shift", float(f"{math.exp(mu):.6g}"), name)
    if len(sides) > 1:
        foreign.warnings.append("shifts timesteps by resolution: here by the largest for all")


def _of_a_fork(foreign: Foreign, ours: Ours) -> None:
    """A shift that is given counts, else one by resolution."""
    distribution = foreign.take("flow_timestep_distribution") or "logit_normal"
    ours.choose("objective/timesteps", distribution, "flow_timestep_distribution")
    if distribution == "logit_normal":
        _set(foreign, ours, "objective.timesteps.mean", "flow_logit_mean")
        _set(foreign, ours, "objective.timesteps.std", "flow_logit_std")
    if foreign.take("flow_uniform_static_ratio") is not None:
        _set(foreign, ours, "objective.timesteps.shift", "flow_uniform_static_ratio")
    elif foreign.take("flow_uniform_shift"):
        side = round((foreign.take("flow_uniform_base_pixels") or 1024**2) ** 0.5)
        ours.set("objective.timesteps.shift", 1.0, "flow_uniform_shift")
        ours.set("objective.timesteps.shift_side", side, "flow_uniform_shift", "flow_uniform_base_pixels")
    else:
        ours.set("objective.timesteps.shift", 1.0, "flow_timestep_distribution")


def _set(foreign: Foreign, ours: Ours, key: str, name: str) -> None:
    if (value := foreign.take(name)) is not None:
        ours.set(key, value, name)
