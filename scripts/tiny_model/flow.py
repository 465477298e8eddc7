"""The tiny Z-Image: a Qwen3 text encoder and a transformer that predicts a flow, over the tiny model's latents."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import ZImageTransformer2DModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3Model

from loralab.diffusion.timesteps import LogitNormal
from loralab.models.families.zimage import LAYER
from loralab.models.text.causal import CausalText
from loralab.models.text.language import CHAT, Frame
from scripts.tiny_model.denoiser import BATCH, Denoiser

TEXT_WIDTH, WIDTH, HEADS, LAYERS = 128, 192, 4, 4
SHIFT = 2.0
"""Of sigmas, in training and as pictures are sampled."""
SCHEDULE = {"num_train_timesteps": 1000, "shift": SHIFT}
SIDE = 2 * 8
"""Sides of pictures are multiples of it: a token is two by two latent cells."""


class Flow(Denoiser):
    """Fresh networks. Eager attention: on a CPU, scaled_dot_product_attention's backward is slow in bf16."""

    peak_lr = 1.5e-3

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        config = Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            num_hidden_layers=2,  # of which the first is read
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            attn_implementation="eager",
        )
        self.text_encoder = Qwen3Model(config)
        self.text = CausalText(self.text_encoder, tokenizer.backend_tokenizer, Frame(512, CHAT), LAYER)
        self.transformer = ZImageTransformer2DModel(
            in_channels=4,
            dim=WIDTH,
            n_layers=LAYERS,
            n_refiner_layers=1,
            n_heads=HEADS,
            n_kv_heads=HEADS,
            cap_feat_dim=TEXT_WIDTH,
            axes_dims=[16, 16, 16],
            axes_lens=[1536, 512, 512],
        )
        self.transformer.set_attention_backend("_native_math")
        self.spread = LogitNormal(std=1.4, shift=SHIFT)
        self._start_well()

    def _start_well(self) -> None:
        """Words far apart from the first step on, and blocks that begin as the identity."""
        nn.init.normal_(self.text_encoder.get_input_embeddings().weight, std=0.5)
        for token in (self.transformer.x_pad_token, self.transformer.cap_pad_token):
            nn.init.normal_(token, std=0.5)
        for name, module in self.transformer.named_modules():
            if isinstance(module, nn.Linear) and ("adaLN_modulation" in name or name.endswith("2-1.linear")):
                nn.init.zeros_(module.weight)
                nn.init.zeros_(module.bias)

    def timesteps(self, rng: np.random.Generator) -> Tensor:
        """(B,): many where the shape is decided, and enough of nearly pure noise, where the colours are."""
        return self.spread.quantile(torch.from_numpy(rng.random(BATCH))).float()

    def loss(self, latents: Tensor, captions: list[str], timesteps: Tensor, done: float = 0.0) -> Tensor:
        """Error of the predicted direction from noise to latents, all timesteps alike."""
        sigma = timesteps.float().view(-1, 1, 1, 1) / 1000
        noise = torch.randn_like(latents)
        noisy = (1 - sigma) * latents + sigma * noise
        with torch.autocast(latents.device.type, torch.bfloat16):
            hidden, _, lengths = self.text(captions)
            states = [states[:length] for states, length in zip(hidden, lengths or (), strict=True)]
            images = list(noisy.unsqueeze(2).unbind())
            predicted = self.transformer(images, 1 - sigma.flatten(), states, return_dict=False)[0]
        return F.mse_loss(torch.stack(predicted).squeeze(2).float(), latents - noise)
