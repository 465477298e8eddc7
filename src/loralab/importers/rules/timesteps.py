"""The range of timesteps that are trained."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours


def timesteps(foreign: Foreign, ours: Ours) -> None:
    low, high = foreign.take("min_timestep") or 0, foreign.take("max_timestep")
    high = 1000 if high is None else high
    if (low, high) != (0, 1000):
        ours.choose("objective/timesteps", "range", "min_timestep", "max_timestep")
        ours.set("objective.timesteps.low", low, "min_timestep")
        ours.set("objective.timesteps.high", high, "max_timestep")
