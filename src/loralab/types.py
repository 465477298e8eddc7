"""The values that flow from a folder of images to a loss.

Shape legend: B batch, C channels, H W pixels, h w latent cells (of 8 pixels, in most families), T tokens, D features.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor


class Draw(NamedTuple):
    """Names one sample of one epoch; all of its randomness is seeded by it (see rng)."""

    epoch: int
    """Counted from 0."""
    index: int
    """Position in the epoch's expanded list: every repeat and every regularisation draw has its own."""


class Place(NamedTuple):
    """Where in training a draw is used; what the sampler asks the dataset for."""

    draw: Draw
    step: int = 0
    """Optimizer steps done before it."""
    share: float = 1.0
    """Factor of its loss weight, so that the mean over devices of unequal batches is the mean over their samples."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image of the dataset, as the index knows it."""

    path: str
    width: int
    """Pixels, as displayed (EXIF orientation applied)."""
    height: int
    caption: str
    """The caption file's text or the folder's class tokens, before any caption rule."""
    repeats: int = 1
    weight: float = 1.0
    """Loss weight of its folder."""
    is_reg: bool = False
    """A regularisation (prior-preservation) image."""
    source: int = 0
    """Which entry of data.folders it came from: selects caption rules and augmentation."""
    mask: str | None = None
    """Path of its loss mask."""
    digest: str = ""
    """Content hash of the file, where it is known."""


@dataclass(frozen=True, slots=True)
class Example:
    """One sample, ready to be collated."""

    draw: Draw
    item: Item
    caption: str
    """After all caption rules."""
    pixels: Tensor | None
    """(3, H, W) in [-1, 1]; None where latents are cached."""
    latent_mean: Tensor | None
    """(C, h, w), unscaled posterior of the VAE; None where pixels are given."""
    latent_std: Tensor | None
    mask: Tensor | None
    """(1, H, W) in [0, 1], the weight of each pixel's loss."""
    crop: tuple[int, int]
    """(top, left) of the crop in the resized image, pixels."""
    bucket: tuple[int, int]
    """(width, height), pixels."""
    share: float = 1.0
    """See Place."""
    text: Conditioning | None = None
    """Of one caption: (1, T, D)."""


@dataclass(slots=True)
class Batch:
    """Samples of one bucket."""

    draws: list[Draw]
    items: list[Item]
    captions: list[str]
    pixels: Tensor | None
    """(B, 3, H, W) in [-1, 1]."""
    latent_mean: Tensor | None
    """(B, C, h, w), unscaled."""
    latent_std: Tensor | None
    mask: Tensor | None
    """(B, 1, H, W) in [0, 1]."""
    weight: Tensor
    """(B,) loss weight of each sample: its folder's × its share (see Place)."""
    is_reg: Tensor
    """(B,) bool."""
    original_size: Tensor
    """(B, 2) height, width of the file's image, pixels."""
    crop: Tensor
    """(B, 2) top, left."""
    target_size: Tensor
    """(B, 2) height, width of the bucket."""
    text: list[Conditioning] | None = None
    """Cached text-encoder outputs, where captions are fixed and the text encoder is frozen."""

    def __len__(self) -> int:
        return len(self.draws)

    def to(self, device: torch.device | str) -> Batch:
        """This batch with its tensors on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """This batch in memory from which copies to a GPU need no wait."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: change(value) for name, value in values.items() if hasattr(value, "pin_memory")}
        text = self.text and [conditioning.each(change) for conditioning in self.text]
        return replace(self, **moved, text=text)


class Fit(NamedTuple):
    """How a caption fits the text encoder."""

    chunks: int
    """Chunks of 75 tokens that it needs, at least one."""
    lost: int
    """Tokens cut off because it needs more than there are."""


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What the denoiser is told beside the noisy latents."""

    hidden: Tensor
    """(B, T, D) text-encoder hidden states."""
    pooled: Tensor | None = None
    """(B, D) pooled text, where the family has one."""
    lengths: tuple[int, ...] | None = None
    """(B) how many of the T states are of the caption, where the others are padding; None: all. Numbers, as a tensor's
    would have to be waited for."""
    added: dict[str, Tensor] = field(default_factory=dict)
    """Further named inputs, such as time_ids (B, 6)."""

    def each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        """This conditioning with every tensor changed."""
        pooled = None if self.pooled is None else change(self.pooled)
        added = {name: change(value) for name, value in self.added.items()}
        return Conditioning(change(self.hidden), pooled, self.lengths, added)

    def by_caption(self) -> list[Tensor]:
        """The states of each caption without padding, (T_i, D)."""
        lengths = self.lengths or [self.hidden.shape[1]] * len(self.hidden)
        return [states[:length] for states, length in zip(self.hidden, lengths, strict=True)]
