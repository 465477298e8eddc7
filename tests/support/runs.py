"""What a run leaves in its folder."""

from __future__ import annotations

import json
from pathlib import Path


def adapter(folder: Path) -> bytes:
    return (folder / "adapter.safetensors").read_bytes()


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())
