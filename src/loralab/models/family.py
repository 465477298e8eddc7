"""What the trainer needs from a base model, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from loralab.models import fingerprint
from loralab.models.digests import remembered
from loralab.models.load import Base
from loralab.models.resting import Resting
from loralab.models.row import Table, latent_channels
from loralab.models.scaling import scaling_of
from loralab.models.sharding import Shares, share_out
from loralab.models.target import Target
from loralab.models.text.encoder import Text, TextEncoder
from loralab.models.vae import decode, decode_in_tiles, encode
from loralab.types import Batch, Conditioning, Fit


class Family(ABC):
    """A frozen model: the way from images and captions to a prediction, and its modules' names.

    Latents are scaled to about unit variance, (B, C, h, w), float32; pixels are (B, 3, H, W) in [-1, 1].
    """

    def __init__(self, base: Base, encoders: Mapping[str, TextEncoder], resolution: int) -> None:
        self.base, self.row = base.path, base.row
        self.denoiser, self.vae = base.denoiser, base.vae
        self.encoders = encoders
        """By part."""
        self.resolution = resolution
        """Native side length, pixels."""
        self.process = base.process
        self._scheduler = base.scheduler
        self.resting = Resting(self.denoiser, {})
        self.is_shared_out = False
        """Whether its processes each keep a part of the weights (see share_out), and must call it together."""
        self._origins, self._digests = base.origins, dict[str, str]()
        for module in (*self.parts().values(), self.vae):
            module.requires_grad_(False)

    @property
    def name(self) -> str:
        """In the registry."""
        return self.row.name

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def text_encoders(self) -> dict[str, Any]:
        """Their modules by part."""
        return {part: encoder.model for part, encoder in self.encoders.items()}

    def parts(self) -> dict[str, nn.Module]:
        """The modules that adapters are put on: the denoiser and the text encoders, by their names in the row."""
        return {self.row.denoiser: self.denoiser, **self.text_encoders}

    def reaches(self, part: str, path: str) -> bool:
        """Whether a prediction depends on the module of this path in a part: clip skip leaves some out."""
        return part not in self.encoders or self.encoders[part].reaches(path)

    def rest(self, parts: Collection[str]) -> None:
        """Has these text encoders and the "vae" on the CPU, where they are now, but while they are used."""
        modules = {**self.text_encoders, "vae": self.vae}
        self.resting = Resting(self.denoiser, {part: modules[part] for part in parts})

    def always_there(self) -> dict[str, nn.Module]:
        """The modules that do not rest, by name."""
        return {name: module for name, module in {**self.parts(), "vae": self.vae}.items() if name not in self.resting}

    def share_out(self, device: torch.device) -> Shares:
        """Shares the frozen weights out between the processes of a run: those of the denoiser and of the text encoders
        that do not rest (see sharding). The VAE stays whole, as each process encodes images of its own."""
        self.is_shared_out = True
        there = [encoder for part, encoder in self.text_encoders.items() if part not in self.resting]
        return share_out(self.denoiser, there, device)

    # names

    @cached_property
    def _table(self) -> Table:
        configs = {part: fingerprint.plain(module.config) for part, module in self.parts().items()}
        return self.row.targets(configs)

    def targets(self, part: str) -> list[Target]:
        """The modules of a part that an adapter may sit on."""
        return self._table[part]

    @property
    def block_count(self) -> int:
        """Length of a list that gives something for each of the denoiser's blocks."""
        blocks = [target.block for target in self.targets(self.row.denoiser)]
        return 1 + max((block for block in blocks if block is not None), default=-1)

    # images

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(C, h, w) of the latents of images of so many pixels."""
        channels = latent_channels(self.vae.config)
        assert channels is not None
        return channels, height // self.row.cell, width // self.row.cell

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, h, w) of the VAE's posterior, unscaled.

        Each image on its own: how kernels round depends on the size of a batch, and the latents of an image must be the
        same to the last bit in whatever batch it is, cached or not. At real sizes one image fills a device.
        """
        with self._vae_at_work() as device:
            images = pixels.to(device, self.vae.dtype).split(1)
            posteriors = [encode(self.vae, image) for image in images]
        mean, std = (torch.cat(values).float() for values in zip(*posteriors, strict=True))
        return mean, std

    def latents(self, batch: Batch, noise: Tensor) -> Tensor:
        """A sample of each image's posterior, mean + std · noise (B, C, h, w), scaled."""
        if batch.latent_mean is not None and batch.latent_std is not None:
            mean, std = batch.latent_mean.to(self.device), batch.latent_std.to(self.device)
        else:
            assert batch.pixels is not None, "a batch has pixels or latents"
            mean, std = self.encode_image(batch.pixels)
        return scaling_of(self.vae).scaled(mean + std * noise.to(mean))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of scaled latents."""
        with self._vae_at_work() as device:
            unscaled = scaling_of(self.vae).unscaled(latents.to(device, self.vae.dtype))
            try:
                pixels = decode(self.vae, unscaled)
            except torch.OutOfMemoryError:  # beside a training there may be little room
                torch.cuda.empty_cache()
                pixels = decode_in_tiles(self.vae, unscaled)
            return pixels.float().clamp(-1, 1)

    @contextmanager
    def _vae_at_work(self) -> Iterator[torch.device]:
        """Inside the block the VAE is on the device, and runs in its own precision: fp16 is too narrow for some, and a
        cache must not depend on it."""
        with self.resting.used("vae"):
            device = next(self.vae.parameters()).device
            with torch.autocast(device.type, enabled=False):
                yield device

    # text

    def encode_text(
        self, captions: list[str], batch: Batch | None = None, size: tuple[int, int] | None = None
    ) -> Conditioning:
        """The denoiser's conditioning: captions (B) and, in some families, facts about the batch's images.

        size: (height, width) of the images, pixels, where there is no batch; None: the native one.
        """
        cached = batch.text if batch is not None else None
        if cached is None:
            with self.resting.used(*self.encoders):
                text = self.read(captions)
        else:
            text = _joined(cached)
        return Conditioning(*text).each(lambda states: states.to(self.device))

    def read(self, captions: list[str]) -> Text:
        """The states of captions; a family of several text encoders puts theirs together."""
        (encoder,) = self.encoders.values()
        return encoder(captions)

    def fit(self, caption: str) -> Fit:
        """How many chunks of tokens a caption needs, and how many of its tokens are cut off."""
        return next(iter(self.encoders.values())).fit(caption)

    # diffusion

    @abstractmethod
    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction (B, C, h, w), float32, of what `process` makes its target, for timesteps (B)."""

    @abstractmethod
    def scheduler(self) -> Any:
        """A fresh diffusers scheduler, by which pictures are drawn from predictions."""

    def schedule(self, steps: int, height: int, width: int) -> Any:
        """A scheduler that is set to so many steps for pictures of a size, pixels."""
        scheduler = self.scheduler()
        scheduler.set_timesteps(steps)
        return scheduler

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
            found[f"tokenizer of {part}"] = encoder.tokenizer_id()
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
            self._digests[part] = remembered(self._origins.get(part), partial(fingerprint.weights, module))
        return self._digests[part], fingerprint.settings(module.config)


def _joined(texts: list[Conditioning]) -> Text:
    """Cached texts of single samples, hidden (1, T, D) and pooled (1, D), as one batch, padded where they differ."""
    pooled = [text.pooled for text in texts if text.pooled is not None]
    lengths = tuple(text.hidden.shape[1] for text in texts)
    hidden = pad_sequence([text.hidden[0] for text in texts], batch_first=True)
    return Text(hidden, torch.cat(pooled) if pooled else None, lengths if len(set(lengths)) > 1 else None)
