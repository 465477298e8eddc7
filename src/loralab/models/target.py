"""Which modules an adapter may sit on, and what a saved file calls them.

Written down by architecture, never read off `named_modules()`: the names in a file are a format that other programs
load, and must not change when a library moves a module. All of it follows from a model's config, so a miniature with
two levels has its table too.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

LayerKind = Literal["attention", "feed_forward", "projection", "conv", "in_out"]
"""projection: a transformer's way in and out. conv: all in residual blocks and resamplers, 3×3, 1×1 or linear.
in_out: the first and last convolution, and the embeddings of the timestep and of sizes."""


class Target(NamedTuple):
    """One module."""

    path: str
    """Inside its part, as the loaded model spells it."""
    kohya: str
    """The module's name in a file of the kohya layout, without `.lora_down.weight` and the like."""
    diffusers: str
    """Its path in a file of the diffusers layout, without the part's name in front."""
    kind: LayerKind
    block: int | None
    """Index in the denoiser's list of blocks; None in a text encoder."""
    comfyui: str = ""
    """Its path in a file of ComfyUI's layout, after `diffusion_model.`; '' where that is the kohya layout."""
    original: str = ""
    """Its path in the original code, where files have that, too, and it is none of the others."""
    third: int | None = None
    """Which third of `original` it is, where that has queries, keys and values in one."""


def plain_target(prefix: str, path: str, kind: LayerKind, block: int | None = None, **names: Any) -> Target:
    """A module that files call by its path, in the kohya layout with the prefix in front and no dots."""
    return Target(path, f"{prefix}_{path.replace('.', '_')}", path, kind, block, **names)
