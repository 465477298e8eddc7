"""The plan of runs that have to fit into memory, and the overrides that it adds to the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loralab.command import sweep
from loralab.command.prepare import Prepared, prepare
from loralab.errors import user_error
from loralab.memory.explicit import is_explicit
from loralab.memory.limit import SETTING
from loralab.schema.compose import compose

if TYPE_CHECKING:
    from loralab.memory.plan import Plan


def is_wanted(prepared: Prepared) -> bool:
    tree = prepared.composed.tree
    return tree["memory"]["limit_gb"] is not None and not tree["settings"]["save_only"]


def planned(prepared: Prepared, overrides: list[str], multirun: bool) -> tuple[Plan, list[str]]:
    """The plan, and the overrides with its choices and its limit as a number. overrides: as the user gave them.

    The runs of a sweep get the same choices. Raises a UserError where one of them cannot fit.
    """
    from loralab.training.quiet import quiet

    quiet()
    from loralab.memory.plan import plan  # imports torch

    composed, swept = prepared.composed, prepared.swept
    if multirun and sweep.is_search():
        remedy = "plan one run of it with loralab plan, and give its settings here"
        raise user_error(SETTING, "cannot be combined with a search, whose points are not known yet", remedy)
    trees = [compose(point).tree for point in sweep.points(swept)] if swept is not None else [composed.tree]
    found = plan(trees, lambda key: is_explicit(composed, key))
    own = [override for override in overrides if override.lstrip("+").partition("=")[0] != SETTING]
    return found, [*own, *found.overrides, f"{SETTING}={found.limit_gb:g}"]


def with_plan(prepared: Prepared, overrides: list[str], multirun: bool) -> tuple[Plan | None, Prepared]:
    """The plan, and what the overrides with its choices compose to; None and the same where no limit is set."""
    if not is_wanted(prepared):
        return None, prepared
    found, chosen = planned(prepared, overrides, multirun or prepared.swept is not None)
    return found, prepare(chosen, multirun)
