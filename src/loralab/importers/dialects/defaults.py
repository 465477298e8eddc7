"""The defaults of other trainers, which apply where a file does not set an option.

Options that cannot change the result (worker processes, logs, paths) keep the defaults of loralab.
"""

from __future__ import annotations

from typing import Any

SD_SCRIPTS: dict[str, Any] = {
    "cache_latents": False,
    "caption_extension": ".caption",
    "enable_bucket": False,
    "gradient_accumulation_steps": 1,
    "learning_rate": 2e-6,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 0,
    "max_grad_norm": 1.0,
    "max_token_length": 75,
    "max_train_steps": 1600,
    "min_bucket_reso": 256,
    "max_bucket_reso": 1024,
    "bucket_reso_steps": 64,
    "mixed_precision": "32-true",
    "network_alpha": 1.0,
    "network_dim": 4,
    "network_module": "networks.lora",
    "optimizer_type": "AdamW",
    "output_name": "last",
    "prior_loss_weight": 1.0,
    "save_precision": "fp32",
    "train_batch_size": 1,
}

_OF_SD_SCRIPTS = ("bucket_reso_steps", "caption_extension", "max_bucket_reso", "max_token_length", "min_bucket_reso")
MUSUBI: dict[str, Any] = {
    **{k: v for k, v in SD_SCRIPTS.items() if k not in _OF_SD_SCRIPTS},
    "bucket_reso_steps": 16,
    "discrete_flow_shift": 1.0,
    "network_train_unet_only": True,
    "resolution": [960, 544],
    "save_precision": "bf16",
    "timestep_sampling": "sigma",
}
"""Of musubi-tuner, with sd-scripts' names. Its buckets are from half to twice the resolution, like ours."""

OLD_SCRIPTS: dict[str, Any] = {
    **{k: v for k, v in SD_SCRIPTS.items() if k not in ("max_train_steps", "network_alpha")},
    "cache_latents": True,
    "caption_extension": ".txt",
    "clip_skip": 2,
    "enable_bucket": True,
    "learning_rate": 1e-4,
    "lr_scheduler": "cosine_with_restarts",
    "max_bucket_reso": 960,
    "max_token_length": 150,
    "max_train_epochs": 1,
    "min_bucket_reso": 320,
    "mixed_precision": "16-mixed",
    "network_dim": 128,
    "resolution": 512,
    "save_precision": "fp16",
    "seed": 23,
    "use_8bit_adam": True,
    "xformers": True,
}
"""Of the LoRA Easy Training scripts. Their alpha of 128 equals their rank of 128: without an alpha, it is the rank."""

KOHYA_GUI: dict[str, Any] = {
    **{k: v for k, v in SD_SCRIPTS.items() if k not in ("max_train_steps",)},
    "bucket_no_upscale": True,
    "cache_latents": True,
    "caption_extension": ".txt",
    "enable_bucket": True,
    "epoch": 1,
    "learning_rate": 1e-4,
    "lr_scheduler": "cosine",
    "lr_warmup": 10.0,
    "max_bucket_reso": 2048,
    "mixed_precision": "16-mixed",
    "network_dim": 8,
    "resolution": 512,
    "save_every_n_epochs": 1,
    "save_precision": "fp16",
    "text_encoder_lr": [1e-4],
    "unet_lr": 1e-4,
    "xformers": True,
}
