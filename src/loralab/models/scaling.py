"""How a VAE's latents are brought to about unit variance."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from loralab.errors import user_error


class Scaling(NamedTuple):
    """(latents − shift)·factor: numbers, or tensors (1, C, p, q) that repeat over each p × q cells."""

    shift: Tensor | float
    factor: Tensor | float

    def scaled(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) of about unit variance."""
        shift, factor = (_over(value, latents) for value in self)
        return (latents - shift) * factor

    def unscaled(self, latents: Tensor) -> Tensor:
        shift, factor = (_over(value, latents) for value in self)
        return latents / factor + shift


def scaling_of(vae: Any) -> Scaling:
    """By the factor and shift of a VAE's config, else by its statistics: of an AutoencoderKLQwenImage those of its
    channels, of an AutoencoderKLFlux2 those of 2 × 2 cells, entry 4c + 2i + j that of channel c at row i, column j."""
    if "scaling_factor" in vae.config:
        return Scaling(vae.config.get("shift_factor") or 0.0, vae.config.scaling_factor)
    if "latents_mean" in vae.config:
        mean, std = (torch.tensor(vae.config[name]).view(1, -1, 1, 1) for name in ("latents_mean", "latents_std"))
        return Scaling(mean, 1 / std)
    cells = (1, -1, *vae.config.patch_size)
    return Scaling(vae.bn.running_mean.view(cells), (vae.bn.running_var + vae.bn.eps).rsqrt().view(cells))


def rescale(vae: Any, factor: float | None, shift: float | None) -> None:
    """Has latents scaled by these numbers instead of the VAE's own; None leaves its own.

    Raises UserError for a shift alone where the VAE has statistics instead of a factor.
    """
    if factor is None and shift is not None and "scaling_factor" not in vae.config:
        found = "cannot be set alone: this VAE has statistics of each channel, and no scale"
        raise user_error("model.latent_shift", found, "set model.latent_scale too")
    given = {"scaling_factor": factor, "shift_factor": shift}
    vae.register_to_config(**{key: value for key, value in given.items() if value is not None})


def draw_statistics(vae: Any, seed: int) -> None:
    """Gives a VAE of random weights statistics of its latents to match, where it has any."""
    if hasattr(vae, "bn"):
        draw = torch.Generator().manual_seed(seed)
        vae.bn.running_mean.normal_(0, 0.1, generator=draw)
        vae.bn.running_var.uniform_(0.5, 2, generator=draw)


def _over(value: Tensor | float, latents: Tensor) -> Tensor | float:
    if not isinstance(value, Tensor):
        return value
    (height, width), (p, q) = latents.shape[-2:], value.shape[-2:]
    return value.to(latents).repeat(1, 1, -(-height // p), -(-width // q))[..., :height, :width]
