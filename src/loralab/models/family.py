"""What the trainer needs from a base model, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from loralab.diffusion.process import Process
from loralab.models import fingerprint
from loralab.models.clip import Text, TextEncoder
from loralab.models.names import Target, block_count, text_targets, unet_targets
from loralab.models.scheduler import make_scheduler
from loralab.types import Batch, Conditioning, Fit


@dataclass(slots=True)
class Base:
    """A loaded base model, before the run's settings are applied."""

    path: str
    """As the user gave it."""
    unet: Any
    vae: Any
    text_encoders: dict[str, Any]
    """By part: text_encoder, and text_encoder_2 where there are two."""
    tokenizers: dict[str, Any]
    """By part."""
    scheduler: dict[str, Any]
    """Config of the diffusers scheduler it is sampled with."""
    process: Process
    """The way from an image to noise, and what the model predicts."""


class Family(ABC):
    """A frozen Stable Diffusion model: the way from images and captions to a prediction, and its modules' names.

    Latents are scaled to about unit variance, (B, 4, h, w), float32; pixels are (B, 3, H, W) in [-1, 1].
    """

    name: str
    """sd1, sd2 or sdxl"""
    latent_factor = 8
    """Pixels along the side of a latent cell."""
    original_names: bool
    """Whether files name the UNet's modules by the original code rather than by diffusers."""
    text_prefixes: ClassVar[dict[str, str]]
    """By part: what a text encoder's names begin with."""

    def __init__(self, base: Base, encoders: dict[str, TextEncoder], resolution: int) -> None:
        self.base = base.path
        self.unet, self.vae = base.unet, base.vae
        self.text_encoders: dict[str, Any] = base.text_encoders
        self.encoders = encoders
        self.resolution = resolution
        """Native side length, pixels."""
        self.process = base.process
        self._scheduler = base.scheduler
        self._digests: dict[str, str] = {}
        for module in (*self.parts().values(), self.vae):
            module.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    def parts(self) -> dict[str, nn.Module]:
        """The modules that adapters are put on: unet, text_encoder, text_encoder_2."""
        return {"unet": self.unet, **self.text_encoders}

    # names

    def targets(self, part: str) -> list[Target]:
        """The modules of a part that an adapter may sit on."""
        if part == "unet":
            return unet_targets(self.unet.config, self.original_names)
        model = self.text_encoders[part]
        return text_targets(model.config.num_hidden_layers, self.text_prefixes[part], hasattr(model, "text_model"))

    def save_names(self, part: str) -> dict[str, str]:
        """Module path in the part → the module's name in a file of the kohya layout."""
        return {target.path: target.kohya for target in self.targets(part)}

    @property
    def block_count(self) -> int:
        """Length of a list that gives something for each of the UNet's blocks."""
        return block_count(self.unet.config, self.original_names)

    # images

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, 4, h, w) of the VAE's posterior, unscaled.

        Each image on its own: how kernels round depends on the size of a batch, and the latents of an image must be the
        same to the last bit in whatever batch it is, cached or not. At real sizes one image fills a device.
        """
        with self._vae_precision():
            images = pixels.to(self.device, self.vae.dtype).split(1)
            posteriors = [self.vae.encode(image).latent_dist for image in images]
        mean, std = (torch.cat([getattr(p, name) for p in posteriors]).float() for name in ("mean", "std"))
        return mean, std

    def latents(self, batch: Batch, noise: Tensor) -> Tensor:
        """A sample of each image's posterior, scaled: (mean + std · noise (B, 4, h, w)) · factor."""
        if batch.latent_mean is not None and batch.latent_std is not None:
            mean, std = batch.latent_mean.to(self.device), batch.latent_std.to(self.device)
        else:
            assert batch.pixels is not None, "a batch has pixels or latents"
            mean, std = self.encode_image(batch.pixels)
        return (mean + std * noise.to(mean)) * self.vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of scaled latents."""
        with self._vae_precision():
            unscaled = latents.to(self.device, self.vae.dtype) / self.vae.config.scaling_factor
            try:
                pixels = self.vae.decode(unscaled, return_dict=False)[0]
            except torch.OutOfMemoryError:  # beside a training there may be little room: in overlapping tiles
                torch.cuda.empty_cache()
                self.vae.tile_latent_min_size, self.vae.tile_sample_min_size = 64, 512
                pixels = self.vae.tiled_decode(unscaled, return_dict=False)[0]
            return pixels.float().clamp(-1, 1)

    def _vae_precision(self) -> torch.autocast:
        """The VAE runs in its own precision: fp16 is too narrow for SDXL's, and a cache must not depend on it."""
        return torch.autocast(self.device.type, enabled=False)

    # text

    @abstractmethod
    def encode_text(self, captions: list[str], batch: Batch | None = None) -> Conditioning:
        """The UNet's conditioning: captions (B) and, in some families, facts about the batch's images."""

    def fit(self, caption: str) -> Fit:
        """How many chunks of 75 tokens a caption needs, and how many of its tokens are cut off."""
        return self.encoders["text_encoder"].fit(caption)

    # diffusion

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's prediction (B, 4, h, w), what `process` makes its target, for timesteps (B)."""
        dtype = self.unet.conv_in.weight.dtype
        added = {name: value.to(dtype) for name, value in conditioning.added.items()}
        if conditioning.pooled is not None:
            added["text_embeds"] = conditioning.pooled.to(dtype)
        hidden = conditioning.hidden.to(dtype)
        out = self.unet(noisy.to(dtype), timesteps, hidden, added_cond_kwargs=added or None, return_dict=False)
        return out[0].float()

    def scheduler(self) -> Any:
        """A fresh diffusers scheduler: the base's own, with the prediction type and zero-terminal SNR applied."""
        return make_scheduler(self._scheduler, self.process.prediction, self.process.zero_terminal_snr)

    @abstractmethod
    def pipeline(self) -> Any:
        """A diffusers pipeline sharing the modules."""

    # identity, for caches and training states

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides what the base computes: digests of weights, settings by name."""
        found: dict[str, Any] = {
            "prediction_type": self.process.prediction,
            "zero_terminal_snr": self.process.zero_terminal_snr,
        }
        for part in (*self.parts(), "vae"):
            digest, settings = self._known(part)
            found |= {f"{part} weights": digest, part: settings}
        for part, encoder in self.encoders.items():
            found[f"tokenizer of {part}"] = fingerprint.tokenizer(encoder.tokenizer)
        return found | {"scheduler": fingerprint.settings(self.scheduler().config)}

    @cached_property
    def vae_id(self) -> str:
        """Hash of everything that decides what an image is encoded to."""
        return fingerprint.digest(self._known("vae"))

    @cached_property
    def text_id(self) -> str:
        """Hash of everything that decides what a caption is encoded to."""
        return fingerprint.digest([(self._known(part), encoder.signature()) for part, encoder in self.encoders.items()])

    def _known(self, part: str) -> tuple[str, dict[str, Any]]:
        """A digest of a part's weights, taken once, and its settings."""
        module = self.vae if part == "vae" else self.parts()[part]
        if part not in self._digests:
            self._digests[part] = fingerprint.weights(module)
        return self._digests[part], fingerprint.settings(module.config)


def joined(texts: list[Conditioning]) -> Text:
    """Cached texts of single samples, hidden (1, T, D) and pooled (1, D), as one batch."""
    pooled = [text.pooled for text in texts if text.pooled is not None]
    return Text(torch.cat([text.hidden for text in texts]), torch.cat(pooled) if pooled else None)
