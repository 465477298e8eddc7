"""The loop that loralab is compared with, as a script of one's own with diffusers and PEFT.

python -m loralab.bench.plain JSON prints its figures; JSON: the arguments of `loralab bench train` and the places.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loralab.bench.laps import Laps
from loralab.stages import Stages, process_start

UNET = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Plain:
    """LoRA on the UNet, and on the text encoders where they train; latents encoded before the first step."""

    def __init__(self, base: Path, images: Path, settings: argparse.Namespace) -> None:
        self.stages = Stages(process_start())
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        self.stages.end("imports")
        files = sorted(images.glob("*.png"))
        self.captions = [file.with_suffix(".txt").read_text() for file in files]
        self.stages.end("index")
        self.settings, self.device = settings, torch.device(settings.device)
        dtype = DTYPES[settings.dtype]
        self.unet: Any = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=dtype)
        self.vae: Any = AutoencoderKL.from_pretrained(base / "vae", torch_dtype=torch.float32)
        classes = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
        folders = {base / part: kind for part, kind in classes.items() if (base / part).is_dir()}
        self.texts: list[Any] = [kind.from_pretrained(place, torch_dtype=dtype) for place, kind in folders.items()]
        self.tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
        self.stages.end("model")
        self.trained = self.with_adapters()
        self.stages.end("adapter")
        self.latents = [self.encode(file) for file in files]  # (1, C, h, w) each
        self.stages.end("caches")

    def with_adapters(self) -> list[nn.Parameter]:
        """Puts the adapters on, and everything on the device; returns what is trained."""
        from peft import LoraConfig, inject_adapter_in_model

        for model, modules in [(self.unet, UNET), *((text, TEXT) for text in self.texts)]:
            model.requires_grad_(False)
            if model is self.unet or self.settings.targets == "both":
                rank = self.settings.rank
                inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=modules), model)
            model.to(self.device)
        trained = [p for model in (self.unet, *self.texts) for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.data = parameter.data.float()
        self.vae.to(self.device)
        return trained

    @torch.no_grad()
    def encode(self, file: Path) -> Tensor:
        """Scaled latents of an image (1, C, h, w)."""
        import numpy as np
        from PIL import Image

        pixels = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)  # (3, H, W)
        pixels = pixels[None].to(self.device).float() / 127.5 - 1
        return self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor

    def run(self, steps: int, warmup: int) -> dict[str, Any]:
        """The figures of so many steps, and the floating-point operations of one; the first `warmup` don't count."""
        laps, batch = Laps(warmup), self.settings.batch_size
        optimizer = torch.optim.AdamW(self.trained, lr=1e-4)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.precision == "16-mixed")
        for step in range(steps):
            chosen = [(step * batch + number) % len(self.latents) for number in range(batch)]
            loss = self.loss(chosen)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            if step == 0:
                self.stages.end("first step")
            laps.lap()
        return {"start_seconds": self.stages.seconds, **laps.figures(self.device, batch), "flops": self.flops()}

    def flops(self) -> int:
        """Of a step."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            self.loss([0] * self.settings.batch_size).backward()
        return counter.get_total_flops()

    def loss(self, chosen: list[int]) -> Tensor:
        """Of the images of these numbers."""
        latents = torch.cat([self.latents[number] for number in chosen])
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(latents),), device=self.device)
        dtype = torch.float16 if self.settings.precision == "16-mixed" else torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=self.settings.precision != "32-true"):
            hidden, added = self.conditioning([self.captions[number] for number in chosen])
            given = ((latents + noise).to(self.unet.dtype), timesteps, hidden.to(self.unet.dtype))
            prediction = self.unet(*given, added_cond_kwargs=added, return_dict=False)[0]
        return nn.functional.mse_loss(prediction.float(), noise)

    def conditioning(self, captions: list[str]) -> tuple[Tensor, dict[str, Tensor] | None]:
        ids = self.tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        ids = ids.input_ids.to(self.device)  # (B, 77)
        outputs = [text(ids, output_hidden_states=True) for text in self.texts]
        if len(outputs) == 1:
            return outputs[0].last_hidden_state, None
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        side = self.settings.resolution
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(ids), device=self.device)
        return hidden, {"text_embeds": outputs[1].text_embeds, "time_ids": sizes}


if __name__ == "__main__":
    given = argparse.Namespace(**json.loads(sys.argv[1]))
    print(json.dumps(Plain(Path(given.base), Path(given.images), given).run(given.steps + given.warmup, given.warmup)))
