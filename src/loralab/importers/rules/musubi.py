"""musubi-tuner's files: sd-scripts' names, with defaults of its own, for families of which few are here."""

from __future__ import annotations

from loralab.importers.dialects.dataset_toml import of_musubi
from loralab.importers.dialects.defaults import MUSUBI
from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.models import registry

DIT = "dit"
"""Its name for the base model, which each of its settings files has."""
FAMILIES = frozenset(("zimage",))
"""Of our families those that it trains."""


def musubi(foreign: Foreign, ours: Ours) -> None:
    """Takes its defaults in place of sd-scripts'; names a family that is not here."""
    module = str(foreign.options.get("network_module") or "").rpartition(".")[2]
    named = module.partition("_")[2]
    if not (foreign.has(DIT) or of_musubi(foreign.datasets) or {named, foreign.family} & FAMILIES):
        return
    foreign.absent = MUSUBI if foreign.absent else {}
    if foreign.has(DIT) and named and named not in registry.FAMILIES:
        foreign.leave("network_module", f"trains another model family; supported: {registry.named()}", "model")
