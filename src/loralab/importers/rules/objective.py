"""What is minimised: noise, timesteps, loss, weighting."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce

NOISE = {
    "offset": {
        "noise_offset": ("strength", coerce.number),
        "adaptive_noise_scale": ("adaptive", coerce.number),
        "noise_offset_random_strength": ("random_strength", coerce.flag),
    },
    "multires": {
        "multires_noise_iterations": ("iterations", coerce.whole),
        "multires_noise_discount": ("discount", coerce.number),
    },
    "input_perturbation": {
        "ip_noise_gamma": ("strength", coerce.number),
        "ip_noise_gamma_random_strength": ("random_strength", coerce.flag),
    },
}
"""Kinds of noise with their options; the first option switches the kind on."""

WEIGHTING = {
    "min_snr": ("min_snr_gamma", coerce.number, "gamma"),
    "scaled_v": ("scale_v_pred_loss_like_noise_pred", coerce.flag, None),
    "v_like": ("v_pred_like_loss", coerce.number, "strength"),
    "debiased": ("debiased_estimation_loss", coerce.flag, None),
}

LOSSES = coerce.OneOf(l2="l2", l1="l1", huber="huber", smooth_l1="smooth_l1")
GROWTHS = coerce.OneOf(constant="constant", exponential="exponential", snr="snr")
THRESHOLD = {
    "huber_c": ("c", coerce.number),
    "huber_schedule": ("schedule", GROWTHS),
    "huber_scale": ("scale", coerce.number),
}


def objective(foreign: Foreign, ours: Ours) -> None:
    _noise(foreign, ours)
    _timesteps(foreign, ours)
    _loss(foreign, ours)
    _weighting(foreign, ours)


def _noise(foreign: Foreign, ours: Ours) -> None:
    chosen, asked = [], _asked(ours, "objective/noise")
    for change, options in NOISE.items():
        values = {name: foreign.take(name, kind) for name, (_, kind) in options.items()}
        switch = next(iter(options))
        if not values[switch] and change not in asked:
            for name in options:
                foreign.leave(name, f"has no effect with {switch} off")
            continue
        if values[switch]:
            chosen.append(change)
        for name, (key, _) in options.items():
            if values[name] is not None:
                ours.set(f"objective.noise.{change}.{key}", values[name], name)
    if chosen:
        switches = [next(iter(NOISE[change])) for change in chosen]
        ours.choose("objective/noise", chosen if len(chosen) > 1 else chosen[0], *switches, "noise_offset_type")


def _asked(ours: Ours, group: str) -> list[str]:
    """The options that the command line chooses in a group that may have several."""
    given = ours.given.choices.get(group, [])
    return given if isinstance(given, list) else [given]


def _timesteps(foreign: Foreign, ours: Ours) -> None:
    low, high = foreign.take("min_timestep", coerce.whole), foreign.take("max_timestep", coerce.whole)
    if (low or 0) == 0 and (1000 if high is None else high) == 1000:
        for name in ("min_timestep", "max_timestep"):
            foreign.leave(name, "has no effect: every timestep is trained")
        return
    ours.choose("objective/timesteps", "range", "min_timestep", "max_timestep")
    ours.set("objective.timesteps.low", low or 0, "min_timestep")
    ours.set("objective.timesteps.high", 1000 if high is None else high, "max_timestep")


def _loss(foreign: Foreign, ours: Ours) -> None:
    loss = foreign.take("loss_type", LOSSES)
    if loss is not None:
        ours.choose("objective/loss", loss, "loss_type")
    for name, (key, kind) in THRESHOLD.items():
        value = foreign.take(name, kind)
        if ours.chosen("objective/loss") in ("huber", "smooth_l1") and value is not None:
            ours.set(f"objective.loss.{key}", value, name)
        else:
            foreign.leave(name, "has no effect: only objective/loss=huber and smooth_l1 have a threshold")


def _weighting(foreign: Foreign, ours: Ours) -> None:
    chosen, asked = {}, _asked(ours, "objective/weighting")
    for option, (name, kind, key) in WEIGHTING.items():
        value = foreign.take(name, kind)
        if not value or (asked and option not in asked):
            foreign.leave(name, "is off" if not value else f"overridden by objective/weighting={','.join(asked)}")
            continue
        chosen[option] = name
        if key:
            ours.set(f"objective.weighting.{option}.{key}", value, name)
    if chosen:
        ours.choose("objective/weighting", list(chosen) if len(chosen) > 1 else next(iter(chosen)), *chosen.values())
    elif foreign.absent or any(name in foreign.options for name, _, _ in WEIGHTING.values()):
        ours.choose("objective/weighting", "none")  # data=shapes would choose another
