"""The images: buckets, caches, and the folders that a dataset configuration lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce


def data(foreign: Foreign, ours: Ours) -> None:
    if foreign.has("train_data_dir"):
        ours.choose("data", "folder", "train_data_dir")
    _resolution(foreign, ours)
    _repeats(foreign, ours)
    _masks(foreign, ours)
    _bucket_limits(foreign, ours)
    _cache(foreign, ours)
    _token_warmup(foreign, ours)


def _resolution(foreign: Foreign, ours: Ours) -> None:
    """Old files set the height separately."""
    if height := foreign.take("height_resolution", coerce.whole):
        width = foreign.take("resolution", coerce.size)
        if isinstance(width, int):
            ours.set(
                "data.resolution", width if width == height else [width, height], "resolution", "height_resolution"
            )
        else:
            foreign.leave("height_resolution", "has no effect: train_resolution already contains a height")


def _repeats(foreign: Foreign, ours: Ours) -> None:
    """Repeats become a setting of a folder in data.folders."""
    repeats = foreign.take("dataset_repeats", coerce.whole) or 1
    if repeats > 1 and (folder := ours.drop("data.folder")):
        entry = {"path": folder, "repeats": repeats}
        if metadata := ours.drop("data.metadata"):
            entry["metadata"] = metadata
        ours.set("data.folders", [entry], "dataset_repeats", "train_data_dir", "in_json")
    else:
        foreign.leave("dataset_repeats", "has no effect: there is nothing to repeat")


def _masks(foreign: Foreign, ours: Ours) -> None:
    masks, masked = foreign.take("conditioning_data_dir", coerce.path), foreign.take("masked_loss", coerce.flag)
    if masked and masks:
        ours.set("data.mask_folder", masks, "conditioning_data_dir", "masked_loss")
    else:
        foreign.leave("conditioning_data_dir", "has no effect with masked_loss off")
        foreign.leave("masked_loss", "has no effect without conditioning_data_dir, the folder of masks")


LIMITS = {
    "min_bucket_reso": ("data.buckets.min_resolution", min),
    "max_bucket_reso": ("data.buckets.max_resolution", max),
}


def _bucket_limits(foreign: Foreign, ours: Ours) -> None:
    """Default limits of the dialect are not applied where they contradict the resolution of the file."""
    if not _has_buckets(foreign, ours):
        for name in (*LIMITS, "bucket_reso_steps", "bucket_no_upscale"):
            foreign.leave(name, "has no effect with enable_bucket off")
        for key in ("data.buckets.step", "data.buckets.no_upscale"):
            ours.drop(key)
        return
    resolution = ours.value("data.resolution")
    for name, (key, limit) in LIMITS.items():
        value = foreign.take(name, coerce.whole)
        if value is not None and (foreign.has(name) or suits(value, limit, [resolution])):
            ours.set(key, value, name)


def _has_buckets(foreign: Foreign, ours: Ours) -> bool:
    """The command line takes precedence: its key, or over a default of the dialect its data/buckets."""
    if (given := ours.given.values.get("data.buckets.enabled")) is not None:
        return bool(given)
    assumed = not foreign.has("enable_bucket")
    return bool((assumed and "data/buckets" in ours.given.choices) or foreign.take("enable_bucket", coerce.flag))


def suits(value: int, limit: Callable[..., float], sizes: list[Any]) -> bool:
    """Whether a limit of buckets is compatible with these image sizes; unknown sizes are ignored."""
    sides = [math.sqrt(s[0] * s[1]) if isinstance(s, list) else s for s in sizes if s is not None]
    return limit(value, *sides) == value if sides else True


def _cache(foreign: Foreign, ours: Ours) -> None:
    memory, disk = foreign.take("cache_latents", coerce.flag), foreign.take("cache_latents_to_disk", coerce.flag)
    varying = any(ours.value(f"data.augment.{name}") for name in ("color", "random_crop"))
    if not foreign.has("cache_latents") and (varying or ours.given.choices.get("data/augment") == "full"):
        memory = False  # a default of the dialect, which would contradict the augmentation
    if memory is not None or disk is not None:
        where = "disk" if disk else "memory" if memory else "none"
        ours.set("data.cache.latents", where, "cache_latents", "cache_latents_to_disk")
    if (text := foreign.take("cache_text_encoder_outputs", coerce.flag)) is not None:
        ours.set("data.cache.text", text, "cache_text_encoder_outputs")


def _token_warmup(foreign: Foreign, ours: Ours) -> None:
    given = foreign.take("token_warmup_step", coerce.number) or 0
    if (steps := warmup_steps(foreign, ours, given)) is None:
        foreign.leave("token_warmup_step", NO_TOTAL)
    elif given or foreign.has("token_warmup_step"):
        ours.set("data.captions.token_warmup_steps", steps, "token_warmup_step")


NO_TOTAL = "a share of max_train_steps, which the file does not set"


def warmup_steps(foreign: Foreign, ours: Ours, given: float) -> int | None:
    """Optimizer steps from their number or, below 1, their share of all steps; None where the total is unknown."""
    if not 0 < given < 1:
        return int(given)
    total = ours.given.values.get("trainer.max_steps")
    if total is None and not foreign.has("max_train_epochs"):
        total = foreign.take("max_train_steps", coerce.whole)
    return int(given * total) if total else None
