"""Pictures from prompts, while or after training."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loralab.rng import generator

if TYPE_CHECKING:
    from loralab.models.family import Family

SCHEDULERS = {
    name: f"diffusers.schedulers.scheduling_{module}"
    for name, module in {
        "DDIMScheduler": "ddim",
        "PNDMScheduler": "pndm",
        "EulerDiscreteScheduler": "euler_discrete",
        "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete",
        "DPMSolverMultistepScheduler": "dpmsolver_multistep",
        "UniPCMultistepScheduler": "unipc_multistep",
    }.items()
}
"""Those that bases come with, and their modules; another base's is sampled with DDIM."""

ZERO_SNR = {"DDIMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"}
"""Those that can start from pure noise; trailing timesteps then begin at the last one (arXiv 2305.08891)."""


def make_scheduler(config: dict[str, Any], prediction_type: str, zero_terminal_snr: bool) -> Any:
    """A diffusers scheduler from its config, with this prediction type and SNR at the end."""
    from importlib import import_module

    name = config.get("_class_name", "DDIMScheduler")
    if name not in (ZERO_SNR if zero_terminal_snr else SCHEDULERS):
        name = "DDIMScheduler"
    changes: dict[str, Any] = {"prediction_type": prediction_type}
    if zero_terminal_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = getattr(import_module(SCHEDULERS[name]), name)
    known = {key: value for key, value in config.items() if not key.startswith("_")}
    return scheduler.from_config({**known, **changes})


def start_noise(seeds: list[int], height: int, width: int) -> Tensor:
    """Noise (B, 4, h, w) for pictures of height × width pixels, each drawn on the CPU from a seed of its own."""
    shape = (4, height // 8, width // 8)
    return torch.stack([torch.randn(shape, generator=generator(seed, "preview")) for seed in seeds])


@torch.no_grad()
def sample(
    family: Family,
    prompts: list[str],
    seeds: list[int],
    negative: str,
    size: tuple[int, int],
    steps: int,
    guidance: float,
) -> Tensor:
    """Pictures (B, 3, H, W) of size (H, W); see `Family.sample`."""
    assert len(prompts) == len(seeds), "a seed for each prompt"
    height, width = size
    scheduler = family.scheduler()
    scheduler.set_timesteps(steps)
    guided = guidance != 1
    conditioning = family.encode_text([negative] * len(prompts) + prompts if guided else prompts)
    if "time_ids" in conditioning.added:
        whole = torch.tensor([height, width, 0, 0, height, width], device=family.device)
        conditioning.added["time_ids"] = whole.expand(len(conditioning.hidden), -1)
    own_noise = {}
    if "generator" in signature(scheduler.step).parameters:
        own_noise["generator"] = [generator(seed, "preview", "step") for seed in seeds]

    latents = start_noise(seeds, height, width).to(family.device) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        noisy = scheduler.scale_model_input(latents, timestep)
        noisy = torch.cat([noisy, noisy]) if guided else noisy
        prediction = family.predict(noisy, timestep.to(family.device).expand(len(noisy)), conditioning)
        if guided:
            without, towards = prediction.chunk(2)
            prediction = without + guidance * (towards - without)
        latents = scheduler.step(prediction, timestep, latents, **own_noise).prev_sample
    return family.decode(latents)
