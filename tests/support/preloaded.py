"""Imports all that a run needs, for processes that are forked from one that has."""

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from loralab.training.quiet import quiet

quiet()
from loralab import launch, run  # noqa: E402

torch.set_num_threads(1)
IMPORTED = (AutoencoderKL, UNet2DConditionModel, CLIPTextModel, CLIPTokenizer, launch, run)
