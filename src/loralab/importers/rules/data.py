"""The images: their folder, size and buckets, and what is cached."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema.catalogue import OPTIONS


def images(foreign: Foreign, ours: Ours) -> None:
    """Repeats become a setting of a folder in data.folders."""
    if foreign.has("train_data_dir"):
        ours.choose("data", "folder", "train_data_dir")
    repeats = foreign.take("dataset_repeats") or 1
    if repeats > 1 and (folder := ours.drop("data.folder")):
        metadata = ours.drop("data.metadata")
        entry = {"path": folder, "repeats": repeats} | ({"metadata": metadata} if metadata else {})
        ours.set("data.folders", [entry], "dataset_repeats", "train_data_dir", "in_json")


def resolution(foreign: Foreign, ours: Ours) -> None:
    """Old files set the height separately."""
    if height := foreign.take("height_resolution"):
        width = foreign.take("resolution")
        if isinstance(width, int):
            size = width if width == height else [width, height]
            ours.set("data.resolution", size, "resolution", "height_resolution")
        else:
            foreign.leave("height_resolution", "has no effect: train_resolution already contains a height")


LIMITS: dict[str, Callable[..., float]] = {"min_bucket_reso": min, "max_bucket_reso": max}


def buckets(foreign: Foreign, ours: Ours) -> None:
    """Default limits of the dialect are not applied where they contradict the resolution of the file."""
    if not _has_buckets(foreign, ours):
        for name in (*LIMITS, "bucket_reso_steps", "bucket_no_upscale"):
            foreign.leave(name, "has no effect with enable_bucket off")
            ours.drop(OPTIONS[name].key)
        return
    for name, limit in LIMITS.items():
        value = foreign.take(name)
        if value is not None and (foreign.has(name) or suits(value, limit, [ours.value("data.resolution")])):
            ours.set(OPTIONS[name].key, value, name)


def _has_buckets(foreign: Foreign, ours: Ours) -> bool:
    """The command line takes precedence: its key, or over a default of the dialect its data/buckets."""
    if (given := ours.given.values.get("data.buckets.enabled")) is not None:
        return bool(given)
    assumed = not foreign.has("enable_bucket")
    return bool((assumed and "data/buckets" in ours.given.choices) or foreign.take("enable_bucket"))


def suits(value: int, limit: Callable[..., float], sizes: list[Any]) -> bool:
    """Whether a limit of buckets is compatible with these image sizes; unknown sizes are ignored."""
    sides = [math.sqrt(s[0] * s[1]) if isinstance(s, list) else s for s in sizes if s is not None]
    return limit(value, *sides) == value if sides else True


def cache(foreign: Foreign, ours: Ours) -> None:
    memory, disk = foreign.take("cache_latents"), foreign.take("cache_latents_to_disk")
    varying = any(ours.value(f"data.augment.{name}") for name in ("color", "random_crop"))
    if not foreign.has("cache_latents") and (varying or ours.given.choices.get("data/augment") == "full"):
        memory = False  # a default of the dialect, which would contradict the augmentation
    if memory is not None or disk is not None:
        where = "disk" if disk else "memory" if memory else "none"
        ours.set("data.cache.latents", where, "cache_latents", "cache_latents_to_disk")


def token_warmup(foreign: Foreign, ours: Ours) -> None:
    given = foreign.take("token_warmup_step") or 0
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
        total = foreign.take("max_train_steps")
    return int(given * total) if total else None
