"""Values that are read from a device without waiting for what it has still to do."""

from __future__ import annotations

import torch
from torch import Tensor


class Arriving:
    """A number, (), on its way to the CPU: from when it is made, behind what the device was given before."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.to("cpu", non_blocking=tensor.is_cuda)
        self._event = torch.cuda.Event() if tensor.is_cuda else None
        if self._event:
            self._event.record()

    def is_there(self) -> bool:
        return self._event is None or self._event.query()

    def value(self) -> float:
        """Waits until it is there."""
        if self._event:
            self._event.synchronize()
        return float(self._tensor)
