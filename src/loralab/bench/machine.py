"""The machine that a benchmark is measured on, and the versions of what computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loralab.report.environment import hardware, versions

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_tile", "asimd", "sve", "bf16")
"""Of a processor: the instructions that decide how fast it multiplies."""
PACKAGES = ("python", "loralab", "torch", "lightning", "diffusers", "transformers", "peft", "numpy", "pillow")


def machine() -> dict[str, Any]:
    """Hardware, threads, flags of the processor, versions."""
    found = versions()
    return {**hardware(), "flags": _flags(), "versions": {name: found[name] for name in PACKAGES if name in found}}


def _flags() -> list[str]:
    """Those of FLAGS that this processor has; none where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return []
    has = {
        flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split(":")[1].split()
    }
    return [flag for flag in FLAGS if flag in has]
