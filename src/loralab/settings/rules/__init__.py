"""How options of other trainers become settings of this one: one module an idea, each a function of (foreign, ours)."""

from __future__ import annotations

from collections.abc import Callable

from loralab.settings.foreign import Foreign
from loralab.settings.rules.data import data
from loralab.settings.rules.folders import folders
from loralab.settings.rules.length import length
from loralab.settings.rules.logs import logs
from loralab.settings.rules.model import model
from loralab.settings.rules.network import network
from loralab.settings.rules.objective import objective
from loralab.settings.rules.optimizer import optimizer
from loralab.settings.rules.ours import Ours
from loralab.settings.rules.plain import plain
from loralab.settings.rules.samples import samples
from loralab.settings.rules.saving import saving
from loralab.settings.rules.scheduler import scheduler
from loralab.settings.rules.targets import targets

RULES: tuple[Callable[[Foreign, Ours], None], ...] = (
    plain,
    model,
    data,
    folders,
    length,
    targets,
    network,
    scheduler,
    optimizer,
    objective,
    samples,
    saving,
    logs,
)
"""In this order: a later one may look at what an earlier one made of its options."""
