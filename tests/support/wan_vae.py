"""The layout of the one file in which the VAE of Wan and Qwen-Image is passed around."""

from __future__ import annotations

import re

PIECES = (
    (r"^quant_conv", "conv1"),
    (r"^post_quant_conv", "conv2"),
    (r"\.conv_in\.", ".conv1."),
    (r"\.conv_out\.", ".head.2."),
    (r"\.norm_out\.", ".head.0."),
    (r"\.mid_block\.attentions\.0\.", ".middle.1."),
    (r"\.mid_block\.resnets\.0\.", ".middle.0."),
    (r"\.mid_block\.resnets\.1\.", ".middle.2."),
    (r"\.down_blocks\.", ".downsamples."),
    (r"\.norm1\.", ".residual.0."),
    (r"(middle\.\d+|samples\.\d+)\.conv1\.", r"\1.residual.2."),
    (r"\.norm2\.", ".residual.3."),
    (r"\.conv2\.", ".residual.6."),
    (r"\.conv_shortcut\.", ".shortcut."),
)


def wan_name(name: str) -> str:
    """The name in such a file of a tensor of diffusers' AutoencoderKLQwenImage. Each of the decoder's levels has three
    residual blocks, and but for the last a layer that enlarges."""
    level = re.search(r"up_blocks\.(\d+)\.(?:resnets\.(\d+)|upsamplers\.0)\.", name)
    if level:
        place = 4 * int(level[1]) + int(level[2] or 3)
        name = name.replace(level[0], f"upsamples.{place}.")
    for pattern, replacement in PIECES:
        name = re.sub(pattern, replacement, name)
    return name
