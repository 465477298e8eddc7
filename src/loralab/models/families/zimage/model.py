"""Z-Image."""

from __future__ import annotations

import torch
from torch import Tensor

from loralab.models.flow import FlowFamily
from loralab.models.row import Config, Row
from loralab.types import Conditioning


class ZImage(FlowFamily):
    """A ZImageTransformer2DModel, which reads the states of Qwen3 at each token of a caption, without padding.

    It counts time from noise, 0, to the image, 1, and predicts the way that goes there."""

    def predict(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = self.denoiser.x_pad_token.dtype
        images = list(noisy.to(dtype).unsqueeze(2).unbind())  # (C, 1, h, w) each
        captions = [states.to(dtype) for states in conditioning.by_caption()]
        out = self.denoiser(images, 1 - timesteps / 1000, captions, return_dict=False)[0]
        return -torch.stack(out).squeeze(2).float()


def tensors_of(row: Row, part: str, state: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    """A part's tensors of a single file under the names of its class."""
    prefix = row.file_parts[part]
    own = {name: tensor for name, tensor in state.items() if name.startswith(prefix)}
    if part != row.denoiser or f"{prefix}all_x_embedder.2-1.weight" in own:  # diffusers' own names
        return {name.removeprefix(prefix): tensor for name, tensor in own.items()}
    from diffusers.loaders.single_file_utils import convert_z_image_transformer_checkpoint_to_diffusers

    return convert_z_image_transformer_checkpoint_to_diffusers(own)
