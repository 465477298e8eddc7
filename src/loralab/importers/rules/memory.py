"""What takes less memory: a base in fewer bits, and blocks of it that wait in the CPU's memory."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.models.frozen import BY_BITSANDBYTES


def offload(foreign: Foreign, ours: Ours, amount: float, name: str) -> None:
    """Blocks, or a share of them, that wait: not of a base whose bits are not copied."""
    if amount and (kind := ours.value("model.quantize")) in BY_BITSANDBYTES:
        foreign.leave(name, f"cannot be combined with model.quantize={kind}")
    else:
        ours.set("model.offload", amount, name)
