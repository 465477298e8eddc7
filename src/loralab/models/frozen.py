"""How frozen weights may be held: types of settings that the families have in common."""

from __future__ import annotations

from typing import Literal

from loralab.schema.ranges import Count, Share

DType = Literal["auto", "fp32", "bf16", "fp16"]
"""`auto` is resolved where settings are composed (loralab.schema.automatic); without a run it is fp32."""

Quantize = Literal["nf4", "int8", "fp8"]

Offload = Count | Share
"""Blocks of the denoiser whose weights wait on the CPU: their number, or as a float a share of them."""
