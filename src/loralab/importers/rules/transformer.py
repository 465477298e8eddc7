"""Layers of transformers that other trainers adapt, beside the attention and feed-forward of the blocks."""

from __future__ import annotations

from loralab.importers.rules.ours import Ours

MODULATION = {"zimage": r"layers\.\d+\.adaLN_modulation", "anima": r"transformer_blocks\.\d+\.norm\d\.linear_"}
"""By which the blocks of a family follow the timestep."""
REFINERS = r"\w+_refiner\."
"""Z-Image's blocks before those for image and text together."""


def family(ours: Ours) -> str:
    """The family of the chosen model, "" where it is none of these."""
    return next((name for name in MODULATION if name in str(ours.chosen("model"))), "")


def pattern(path: str, **settings: float) -> dict[str, str | float]:
    """An entry of targets.patterns for layers of the transformer."""
    return {"match": rf"^transformer\.{path}", **settings}
