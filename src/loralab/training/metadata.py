"""What an adapter file says of its making: the `ss_*` names of sd-scripts and `modelspec.*`, which UIs and sites read.

Pure: from the settings and a few facts to a dict of strings. Nothing volatile is in it unless dates are given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from loralab import __version__

Settings = Mapping[str, Any]
"""The composed configuration, plain values."""

BY_KEY = {
    "ss_adaptive_noise_scale": "objective.noise.offset.adaptive",
    "ss_batch_size_per_device": "data.batch_size",
    "ss_bucket_no_upscale": "data.buckets.no_upscale",
    "ss_caption_dropout_every_n_epochs": "data.captions.dropout_every_n_epochs",
    "ss_caption_dropout_rate": "data.captions.dropout_rate",
    "ss_caption_tag_dropout_rate": "data.captions.tag_dropout_rate",
    "ss_clip_skip": "model.clip_skip",
    "ss_color_aug": "data.augment.color",
    "ss_enable_bucket": "data.buckets.enabled",
    "ss_flip_aug": "data.augment.flip",
    "ss_gradient_accumulation_steps": "trainer.accumulate_grad_batches",
    "ss_gradient_checkpointing": "model.gradient_checkpointing",
    "ss_huber_c": "objective.loss.c",
    "ss_huber_scale": "objective.loss.scale",
    "ss_huber_schedule": "objective.loss.schedule",
    "ss_ip_noise_gamma": "objective.noise.input_perturbation.strength",
    "ss_ip_noise_gamma_random_strength": "objective.noise.input_perturbation.random_strength",
    "ss_keep_tokens": "data.captions.keep_tokens",
    "ss_learning_rate": "optimizer.lr",
    "ss_lr_warmup_steps": "scheduler.warmup_steps",
    "ss_max_bucket_reso": "data.buckets.max_resolution",
    "ss_max_grad_norm": "trainer.gradient_clip_val",
    "ss_max_token_length": "model.max_token_length",
    "ss_min_bucket_reso": "data.buckets.min_resolution",
    "ss_min_snr_gamma": "objective.weighting.min_snr.gamma",
    "ss_multires_noise_discount": "objective.noise.multires.discount",
    "ss_multires_noise_iterations": "objective.noise.multires.iterations",
    "ss_network_dropout": "adapter.dropout",
    "ss_noise_offset": "objective.noise.offset.strength",
    "ss_noise_offset_random_strength": "objective.noise.offset.random_strength",
    "ss_output_name": "output.name",
    "ss_prior_loss_weight": "objective.prior_loss_weight",
    "ss_random_crop": "data.augment.random_crop",
    "ss_scale_weight_norms": "adapter.max_norm",
    "ss_seed": "seed",
    "ss_shuffle_caption": "data.captions.shuffle",
    "ss_text_encoder_lr": "targets.text_encoder_lr",
    "ss_training_comment": "output.comment",
    "ss_unet_lr": "targets.unet_lr",
    "ss_validate_every_n_epochs": "callbacks.validation.every_n_epochs",
    "ss_validate_every_n_steps": "callbacks.validation.every_n_steps",
    "ss_validation_split": "data.validation.share",
}
"""Name in the file → setting that it tells."""

NOT_HERE = {
    "ss_face_crop_aug_range": None,
    "ss_fp8_base": False,
    "ss_fp8_base_unet": False,
    "ss_full_fp16": False,
    "ss_lowram": False,
    "ss_max_validation_steps": None,
    "ss_resize_interpolation": None,
    "ss_validation_seed": None,
}
"""What sd-scripts can do besides, and tells in every file."""

NETWORK_ARGS = ("conv_rank", "conv_alpha", "rank_stabilised", "rank_dropout", "module_dropout", "factor")
PRECISIONS = {"32-true": "no", "16-mixed": "fp16", "bf16-mixed": "bf16"}
VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
ARCHITECTURES = {
    ("sd1", "epsilon"): "stable-diffusion-v1",
    ("sd1", "v_prediction"): "stable-diffusion-v1",
    ("sd2", "epsilon"): "stable-diffusion-v2-512",
    ("sd2", "v_prediction"): "stable-diffusion-v2-768-v",
    ("sdxl", "epsilon"): "stable-diffusion-xl-v1-base",
    ("sdxl", "v_prediction"): "stable-diffusion-xl-v1-base",
}


@dataclass(frozen=True, slots=True)
class Model:
    """Facts of the base model."""

    family: str
    """sd1, sd2 or sdxl"""
    prediction_type: str
    zero_terminal_snr: bool
    alpha: float
    """Of the adapter's first linear layer: the setting may leave it open, and those of `adapter.weights` count."""
    rank: int | None = None
    """Of the same; None where it has none, and the setting is told."""


@dataclass(frozen=True, slots=True)
class Data:
    """Facts of the images."""

    images: int
    """Training samples of an epoch, repeats counted."""
    reg_images: int
    held_out: int
    batches: int
    """Of an epoch."""
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Folder name → (repeats, images)."""
    reg_folders: dict[str, tuple[int, int]] = field(default_factory=dict)
    tags: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Folder name → tag → images."""
    buckets: list[tuple[tuple[int, int], int]] = field(default_factory=list)
    """((width, height), samples of an epoch)"""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the training was when the file was written."""

    epoch: int
    step: int
    max_epochs: int | None
    max_steps: int | None


@dataclass(frozen=True, slots=True)
class Dates:
    """What makes two files of the same training differ."""

    started: float
    """Seconds since 1970."""
    finished: float
    session: int


def metadata(
    settings: Settings,
    model: Model,
    data: Data,
    progress: Progress,
    base: Mapping[str, str] | None = None,
    dates: Dates | None = None,
) -> dict[str, str]:
    """The metadata of an adapter file, all values strings. `base`: see `base_facts`."""
    told = NOT_HERE | {key: _get(settings, path) for key, path in BY_KEY.items()}
    told |= (
        _network(settings, model)
        | _training(settings, progress)
        | _images(settings, data)
        | _modelspec(settings, model)
    )
    told |= base or {}
    told |= {
        "ss_base_model_version": VERSIONS[model.family] + ("_v" if _is_v(model) and model.family != "sdxl" else ""),
        "ss_v2": model.family == "sd2",
        "ss_zero_terminal_snr": model.zero_terminal_snr,
    }
    if dates:
        told |= {
            "ss_session_id": dates.session,
            "ss_training_started_at": dates.started,
            "ss_training_finished_at": dates.finished,
            "modelspec.date": datetime.fromtimestamp(dates.finished, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S"),
        }
    return {key: str(value) for key, value in sorted(told.items())}


def base_facts(base: str, vae: str | None = None) -> dict[str, str]:
    """Names of the base model and of another VAE; hashes where they are single files, which are read whole."""
    facts = {"ss_sd_model_name": Path(base).name}
    if Path(base).is_file():
        facts["ss_sd_model_hash"], facts["ss_new_sd_model_hash"] = model_hashes(Path(base))
    if vae:
        facts["ss_vae_name"] = Path(vae).name
        if Path(vae).is_file():
            facts["ss_vae_hash"], facts["ss_new_vae_hash"] = model_hashes(Path(vae))
    return facts


def model_hashes(path: Path) -> tuple[str, str]:
    """The hashes by which UIs know a checkpoint: 8 digits of 64 KiB from 1 MiB on, and SHA-256 of the whole."""
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            whole.update(chunk)
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8], whole.hexdigest()


def _network(settings: Settings, model: Model) -> dict[str, Any]:
    kind = str(_get(settings, "adapter._target_")).rpartition(".")[2]
    plain = kind == "LoRA"
    given = {key: _get(settings, f"adapter.{key}") for key in NETWORK_ARGS}
    args = {_FOREIGN.get(key, key): str(value) for key, value in given.items() if value}
    if not plain:
        args["algo"] = "lora" if kind == "DoRA" else kind.lower()
    if kind == "DoRA":
        args |= {"dora_wd": "True", "wd_on_output": str(_get(settings, "adapter.magnitude") != "input")}
    if ratio := _get(settings, "targets.loraplus_ratio"):
        args["loraplus_lr_ratio"] = str(ratio)
    told: dict[str, Any] = {"ss_network_module": "networks.lora" if plain else "lycoris.kohya"}
    if args:
        told["ss_network_args"] = json.dumps(args, sort_keys=True)
    rank = _get(settings, "adapter.rank") if model.rank is None else model.rank
    return told | {"ss_network_alpha": model.alpha, "ss_network_dim": rank}


_FOREIGN = {"conv_rank": "conv_dim", "rank_stabilised": "rs_lora"}


def _training(settings: Settings, progress: Progress) -> dict[str, Any]:
    weighting = _get(settings, "objective.weighting") or {}
    return {
        "ss_epoch": progress.epoch,
        "ss_steps": progress.step,
        "ss_num_epochs": progress.max_epochs,
        "ss_max_train_steps": progress.max_steps,
        "ss_optimizer": _call(_get(settings, "optimizer") or {}, leave_out=("lr",)),
        "ss_lr_scheduler": str(_get(settings, "scheduler._target_")).rpartition(".")[2],
        "ss_mixed_precision": PRECISIONS.get(str(_get(settings, "trainer.precision")), "no"),
        "ss_loss_type": str(_get(settings, "objective.loss._target_")).rpartition(".")[2].lower(),
        "ss_debiased_estimation": "debiased" in weighting,
        "ss_cache_latents": _get(settings, "data.cache.latents") not in (None, "none"),
    }


def _images(settings: Settings, data: Data) -> dict[str, Any]:
    def folders(entries: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
        return {name: {"n_repeats": repeats, "img_count": count} for name, (repeats, count) in entries.items()}

    buckets = {str(i): {"resolution": list(size), "count": count} for i, (size, count) in enumerate(data.buckets)}
    size = _get(settings, "data.batch_size")
    return {
        "ss_num_train_images": data.images,
        "ss_num_reg_images": data.reg_images,
        "ss_num_validation_images": data.held_out,
        "ss_num_batches_per_epoch": data.batches,
        "ss_total_batch_size": size,
        "ss_resolution": f"({_side(settings, 0)}, {_side(settings, 1)})",
        "ss_dataset_dirs": json.dumps(folders(data.folders)),
        "ss_reg_dataset_dirs": json.dumps(folders(data.reg_folders)),
        "ss_tag_frequency": json.dumps({name: dict(counts) for name, counts in data.tags.items()}, ensure_ascii=False),
        "ss_bucket_info": json.dumps({"buckets": buckets}),
    }


def _modelspec(settings: Settings, model: Model) -> dict[str, str]:
    told = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{ARCHITECTURES[model.family, model.prediction_type]}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.implementation_version": f"loralab/{__version__}",
        "modelspec.title": str(_get(settings, "output.name")),
        "modelspec.resolution": f"{_side(settings, 0)}x{_side(settings, 1)}",
        "modelspec.prediction_type": "v" if _is_v(model) else "epsilon",
        "modelspec.encoder_layer": str(_get(settings, "model.clip_skip") or 2),
        "modelspec.trigger_phrase": _get(settings, "data.captions.trigger"),
        "modelspec.description": _get(settings, "output.comment"),
    }
    return {key: value for key, value in told.items() if value is not None}


def _is_v(model: Model) -> bool:
    return model.prediction_type == "v_prediction"


def _side(settings: Settings, axis: int) -> int:
    """Width or height of the pixel budget, of the first where there are several."""
    budget = _get(settings, "data.resolution")
    while isinstance(budget, (list, tuple)) and isinstance(budget[0], (list, tuple)):
        budget = budget[0]
    return budget[min(axis, len(budget) - 1)] if isinstance(budget, (list, tuple)) else budget


def _call(node: Mapping[str, Any], leave_out: tuple[str, ...]) -> str:
    """torch.optim.AdamW(weight_decay=0.01)"""
    given = {key: value for key, value in node.items() if not key.startswith("_") and key not in leave_out}
    return f"{node.get('_target_')}({','.join(f'{key}={value}' for key, value in given.items() if value is not None)})"


def _get(settings: Settings, path: str) -> Any:
    node: Any = settings
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node
