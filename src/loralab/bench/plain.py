"""The loop that loralab is compared with: as one would write it with diffusers and PEFT."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from loralab.bench.clock import Laps

UNET = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Plain:
    """LoRA on the UNet, and on the text encoders where they train; cached latents, one prompt."""

    def __init__(self, base: Path, settings: argparse.Namespace) -> None:
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
        from peft import LoraConfig, inject_adapter_in_model
        from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection
        from transformers.models.clip.tokenization_clip import CLIPTokenizer

        self.settings = settings
        self.device = torch.device(settings.device)
        dtype = DTYPES[settings.dtype]
        self.unet: Any = UNet2DConditionModel.from_pretrained(base / "unet", torch_dtype=dtype)
        classes = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
        folders = {base / part: kind for part, kind in classes.items() if (base / part).is_dir()}
        self.texts: list[Any] = [kind.from_pretrained(place, torch_dtype=dtype) for place, kind in folders.items()]
        for model, modules in [(self.unet, UNET), *((text, TEXT) for text in self.texts)]:
            model.requires_grad_(False)
            if model is self.unet or settings.targets == "both":
                rank = settings.rank
                inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=modules), model)
            model.to(self.device)
        self.modules: list[nn.Module] = [self.unet, *self.texts]
        self.trained = [p for model in self.modules for p in model.parameters() if p.requires_grad]
        for parameter in self.trained:
            parameter.data = parameter.data.float()
        tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
        ids = tokenizer("a red star on a blue ground", padding="max_length", max_length=77).input_ids
        self.ids = torch.tensor([ids] * settings.batch_size, device=self.device)  # (B, 77)

    def run(self, steps: int) -> dict[str, float]:
        """The figures of so many steps, and the floating-point operations of one."""
        laps, side = Laps(self.settings.warmup), self.settings.resolution // 8
        latents = torch.randn(self.settings.batch_size, 4, side, side, device=self.device)
        optimizer = torch.optim.AdamW(self.trained, lr=1e-4)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.precision == "16-mixed")
        for _ in range(steps):
            loss = self.loss(latents)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(self.trained, 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            laps.lap()
        with FlopCounterMode(display=False) as counter:
            self.loss(latents).backward()
        figures = laps.figures(self.device, len(latents), self.settings.started)
        return {**figures, "flops": counter.get_total_flops()}

    def loss(self, latents: Tensor) -> Tensor:
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, 1000, (len(latents),), device=self.device)
        dtype = torch.float16 if self.settings.precision == "16-mixed" else torch.bfloat16
        with torch.autocast(self.device.type, dtype, enabled=self.settings.precision != "32-true"):
            hidden, added = self.conditioning()
            given = ((latents + noise).to(self.unet.dtype), timesteps, hidden.to(self.unet.dtype))
            prediction = self.unet(*given, added_cond_kwargs=added, return_dict=False)[0]
        return nn.functional.mse_loss(prediction.float(), noise)

    def conditioning(self) -> tuple[Tensor, dict[str, Tensor] | None]:
        outputs = [text(self.ids, output_hidden_states=True) for text in self.texts]
        if len(outputs) == 1:
            return outputs[0].last_hidden_state, None
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        side = self.settings.resolution
        sizes = torch.tensor([[side, side, 0, 0, side, side]] * len(self.ids), device=self.device)
        return hidden, {"text_embeds": outputs[1].text_embeds, "time_ids": sizes}
