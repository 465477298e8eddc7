"""Pictures from prompts, while or after training."""

from __future__ import annotations

from inspect import signature

import torch
from torch import Tensor

from loralab.models.family import Family
from loralab.rng import generator
from loralab.signals import check


def start_noise(seeds: list[int], shape: tuple[int, int, int]) -> Tensor:
    """Noise (B, C, h, w) for pictures whose latents have this shape, each drawn on the CPU from a seed of its own."""
    return torch.stack([torch.randn(shape, generator=generator(seed, "preview")) for seed in seeds])


@torch.no_grad()
def sample(
    family: Family,
    prompts: list[str],
    seeds: list[int],
    *,
    negative: str = "",
    width: int | None = None,
    height: int | None = None,
    steps: int = 20,
    guidance: float = 7.5,
) -> Tensor:
    """Pictures (B, 3, H, W), one a prompt and its seed, with classifier-free guidance (arXiv 2207.12598).

    None for a side is the native one. A picture depends on its own seed alone, not on its neighbours or on any global
    random state. A signal ends it between two steps (see signals).
    """
    assert len(prompts) == len(seeds), "a seed for each prompt"
    height, width = height or family.resolution, width or family.resolution
    scheduler = family.schedule(steps, height, width)
    guided = guidance != 1
    captions = [negative] * len(prompts) + prompts if guided else prompts
    conditioning = family.encode_text(captions, size=(height, width))
    own_noise = {}
    if "generator" in signature(scheduler.step).parameters:
        own_noise["generator"] = [generator(seed, "preview", "step") for seed in seeds]

    latents = start_noise(seeds, family.latent_shape(height, width)).to(family.device)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)  # those of flows start from plain noise
    at_scale = getattr(scheduler, "scale_model_input", lambda latents, timestep: latents)
    for timestep in scheduler.timesteps:
        if not family.is_shared_out:  # several processes go in step
            check()
        noisy = at_scale(latents, timestep)
        noisy = torch.cat([noisy, noisy]) if guided else noisy
        prediction = family.predict(noisy, timestep.to(family.device).expand(len(noisy)), conditioning)
        if guided:
            without, towards = prediction.chunk(2)
            prediction = without + guidance * (towards - without)
        latents = scheduler.step(prediction, timestep, latents, **own_noise).prev_sample
    return family.decode(latents)
