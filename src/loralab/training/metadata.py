"""Training metadata of an adapter file: sd-scripts' `ss_*` names and `modelspec.*`, which UIs and sites read.

Pure: from the settings and a few facts to a dict of strings. Nothing volatile is in it unless dates are given.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from loralab import __version__
from loralab.models.registry import FAMILIES, Row
from loralab.schema import coerce
from loralab.schema.catalogue import OPTIONS, UNUSED
from loralab.schema.tree import get
from loralab.training import flow_metadata
from loralab.training.network_metadata import network

Settings = Mapping[str, Any]
"""The composed configuration, plain values."""

RECIPE = "loralab"
"""Where a file holds the settings of its training in this project's own terms, as JSON."""

PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
"""In the terms of modelspec, which has none for a flow."""


@dataclass(frozen=True, slots=True)
class Model:
    """Facts of the base model."""

    family: str
    """Its name in the registry."""
    prediction_type: str
    zero_terminal_snr: bool
    alpha: float
    """Of the adapter's first linear layer: the setting may leave it open, and those of `adapter.weights` count."""
    rank: int | None = None
    """Of the same; None where it has none, and the setting is written instead."""

    @property
    def row(self) -> Row:
        return FAMILIES[self.family]


@dataclass(frozen=True, slots=True)
class Data:
    """Facts of the images."""

    images: int
    """Training samples of an epoch, repeats counted."""
    reg_images: int
    """Regularisation images, repeats counted."""
    held_out: int
    batches: int
    """Of an epoch, on one device."""
    folders: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Folder name → (repeats, images)."""
    reg_folders: dict[str, tuple[int, int]] = field(default_factory=dict)
    tags: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Folder name → tag → images."""
    buckets: list[tuple[tuple[int, int], int]] = field(default_factory=list)
    """((width, height), samples of an epoch)"""
    aspect_error: float = 0.0
    """Mean of |bucket's aspect ratio − image's| over all images, repeats not counted."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the training was when the file was written."""

    epoch: int
    """Epochs completed."""
    step: int
    """Optimizer steps done."""
    epochs: int
    """Of the whole training, the last one perhaps not completed."""
    steps: int
    devices: int = 1

    @property
    def is_finished(self) -> bool:
        return self.step >= self.steps


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
    told = {option.metadata: get(settings, option.holder or option.key) for option in OPTIONS.values() if option.ss}
    told |= {f"ss_{name}": value for name, value in UNUSED.items() if not told.get(f"ss_{name}")}
    told |= (
        network(settings, _rank(settings, model), model.alpha)
        | _training(settings, progress)
        | (flow_metadata.flow(settings) if model.prediction_type == "flow" else {})
        | _images(settings, data, progress.devices)
        | _modelspec(settings, model)
    )
    told |= base or {}
    told |= {
        "ss_base_model_version": model.row.versions[model.prediction_type],
        "ss_v2": model.row.flag == "v2",
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
    """Names and hashes of the base model and of another VAE; a hub id has no hash."""
    facts = {}
    for name, place in (("sd_model", base), ("vae", vae)):
        if place:
            path = Path(place).expanduser()
            facts[f"ss_{name}_name"] = path.name
            if path.exists():
                facts[f"ss_{name}_hash"], facts[f"ss_new_{name}_hash"] = model_hashes(path)
    return facts


def model_hashes(path: Path) -> tuple[str, str]:
    """The hashes by which UIs know a checkpoint: 8 digits of 64 KiB from 1 MiB on, and SHA-256 of the whole file, which
    is read for it. A folder has the word that sd-scripts writes."""
    if path.is_dir():
        return "IsADirectory", "IsADirectory"
    whole = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 22):
            whole.update(chunk)
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8], whole.hexdigest()


def _rank(settings: Settings, model: Model) -> int:
    return get(settings, "adapter.rank") if model.rank is None else model.rank


def _training(settings: Settings, progress: Progress) -> dict[str, Any]:
    weighting = get(settings, "objective.weighting") or {}
    return {
        "ss_epoch": progress.epochs if progress.is_finished else progress.epoch,
        "ss_steps": progress.step,
        "ss_num_epochs": progress.epochs,
        "ss_max_train_steps": progress.steps,
        "ss_lr_warmup_steps": _warmup(settings, progress.steps),
        "ss_optimizer": _call(get(settings, "optimizer") or {}, leave_out=("lr",)),
        "ss_lr_scheduler": str(get(settings, "scheduler._target_")).rpartition(".")[2],
        "ss_mixed_precision": coerce.precision.word(get(settings, "trainer.precision")),
        "ss_loss_type": _snake_case(str(get(settings, "objective.loss._target_")).rpartition(".")[2]),
        "ss_debiased_estimation": "debiased" in weighting,
        "ss_cache_latents": get(settings, "data.cache.latents") not in (None, "none"),
    }


def _snake_case(name: str) -> str:
    """smooth_l1 of SmoothL1"""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _warmup(settings: Settings, steps: int) -> int | float:
    """Optimizer steps, or below 1 a share of all, which is how sd-scripts takes a ratio."""
    given, ratio = get(settings, "scheduler.warmup_steps"), get(settings, "scheduler.warmup_ratio") or 0.0
    if given is not None:
        return given
    return ratio if 0 < ratio < 1 else int(ratio * steps)


def _images(settings: Settings, data: Data, devices: int) -> dict[str, Any]:
    def folders(entries: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
        return {name: {"n_repeats": repeats, "img_count": count} for name, (repeats, count) in entries.items()}

    buckets = {str(i): {"resolution": list(size), "count": count} for i, (size, count) in enumerate(data.buckets)}
    info = {"buckets": buckets, "mean_img_ar_error": data.aspect_error}
    together = (get(settings, "trainer.accumulate_grad_batches") or 1) // (get(settings, "data.batch_parts") or 1)
    size = get(settings, "data.batch_size") * devices * together
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
        "ss_bucket_info": json.dumps(info if get(settings, "data.buckets.enabled") else None),
    }


def _modelspec(settings: Settings, model: Model) -> dict[str, Any]:
    told = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{model.row.architectures[model.prediction_type]}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.implementation_version": f"loralab/{__version__}",
        "modelspec.title": str(get(settings, "output.name")),
        "modelspec.resolution": f"{_side(settings, 0)}x{_side(settings, 1)}",
        "modelspec.prediction_type": PREDICTIONS.get(model.prediction_type),
        "modelspec.encoder_layer": get(settings, "model.clip_skip") or model.row.encoder_layer,
        "modelspec.trigger_phrase": get(settings, "data.captions.trigger"),
        "modelspec.description": get(settings, "output.comment"),
    }
    return {key: value for key, value in told.items() if value is not None}


def _side(settings: Settings, axis: int) -> int:
    """Width or height of the pixel budget, of the first where there are several."""
    budget = get(settings, "data.resolution")
    while isinstance(budget, (list, tuple)) and isinstance(budget[0], (list, tuple)):
        budget = budget[0]
    return budget[min(axis, len(budget) - 1)] if isinstance(budget, (list, tuple)) else budget


def _call(node: Mapping[str, Any], leave_out: tuple[str, ...]) -> str:
    """torch.optim.AdamW(weight_decay=0.01)"""
    given = {key: value for key, value in node.items() if not key.startswith("_") and key not in leave_out}
    return f"{node.get('_target_')}({','.join(f'{key}={value}' for key, value in given.items() if value is not None)})"
