"""Valid ranges for third-party constructors, whose signatures do not tell them."""

from __future__ import annotations

from loralab.values import Range

RANGES: dict[str, dict[str, Range]] = {
    "optimizer": {
        "lr": Range(0),
        "betas": Range(0, 1, below=True),
        "beta1": Range(0, 1, below=True),
        "beta3": Range(0, 1, below=True),
        "momentum": Range(0, 1, below=True),
        "dampening": Range(0, 1),
        "eps": Range(0),
        "weight_decay": Range(0),
        "alpha": Range(0),
        "clip_threshold": Range(0, above=True),
        "decay_rate": Range(-1, 0),
        "d0": Range(0, above=True),
        "d_coef": Range(0, above=True),
        "growth_rate": Range(1, above=True),
        "slice_p": Range(1),
        "warmup_steps": Range(0),
        "t_alpha": Range(0),
        "t_beta3": Range(0),
        "min_8bit_size": Range(0),
    },
}
"""By group and key; of a list, every number."""
