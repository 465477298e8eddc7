"""What takes less memory: a base in fewer bits, and blocks of it that wait in the CPU's memory."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours


def offload(foreign: Foreign, ours: Ours, amount: float, name: str) -> None:
    """Blocks, or a share of them, that wait: not of a base in four bits, which stays on its device."""
    if amount and ours.value("model.quantize") == "nf4":
        foreign.leave(name, "cannot be combined with model.quantize=nf4")
    else:
        ours.set("model.offload", amount, name)
