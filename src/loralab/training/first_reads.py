"""How a run of several processes reads the checkpoint that it resumes from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.plugins.io import TorchCheckpointIO


class FirstReads(TorchCheckpointIO):
    """The first process reads the file and gives its bytes to the others, whose machines may not have it."""

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True) -> dict[str, Any]:
        is_shared = dist.is_initialized()
        content = [Path(path).read_bytes() if not is_shared or dist.get_rank() == 0 else None]
        if is_shared:
            dist.broadcast_object_list(content, 0)
        return torch.load(io.BytesIO(content[0] or b""), map_location=map_location, weights_only=True)
