"""The images: buckets, caches, and the folders that a dataset configuration lists."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from loralab.settings import kinds
from loralab.settings.foreign import Foreign
from loralab.settings.rules.ours import Ours


def data(foreign: Foreign, ours: Ours) -> None:
    if foreign.has("train_data_dir"):
        ours.choose("data", "folder", "train_data_dir")
    _repeats(foreign, ours)
    _masks(foreign, ours)
    _bucket_limits(foreign, ours)
    _cache(foreign, ours)
    _token_warmup(foreign, ours)


def _repeats(foreign: Foreign, ours: Ours) -> None:
    """Repeats are given to a folder of data.folders."""
    repeats = foreign.take("dataset_repeats", kinds.whole) or 1
    if repeats > 1 and (folder := ours.values.pop("data.folder", None)):
        entry = {"path": folder, "repeats": repeats}
        if metadata := ours.values.pop("data.metadata", None):
            entry["metadata"] = metadata
        ours.set("data.folders", [entry], "dataset_repeats", "train_data_dir", "in_json")
    else:
        foreign.leave("dataset_repeats", "there is nothing to repeat")


def _masks(foreign: Foreign, ours: Ours) -> None:
    masks, masked = foreign.take("conditioning_data_dir", kinds.path), foreign.take("masked_loss", kinds.flag)
    if masked and masks:
        ours.set("data.mask_folder", masks, "conditioning_data_dir", "masked_loss")
    else:
        foreign.leave("conditioning_data_dir", "masked_loss is off")
        foreign.leave("masked_loss", "there are no masks: conditioning_data_dir names them")


LIMITS = {
    "min_bucket_reso": ("data.buckets.min_resolution", min),
    "max_bucket_reso": ("data.buckets.max_resolution", max),
}


def _bucket_limits(foreign: Foreign, ours: Ours) -> None:
    """Limits that the dialect assumes give way to a resolution that the file gives."""
    if not foreign.take("enable_bucket", kinds.flag):
        for name in ("min_bucket_reso", "max_bucket_reso", "bucket_reso_steps", "bucket_no_upscale"):
            foreign.leave(name, "there are no buckets: enable_bucket is off")
            ours.values.pop({"bucket_reso_steps": "data.buckets.step"}.get(name, "data.buckets.no_upscale"), None)
        return
    resolution = foreign.take("resolution", kinds.size)
    for name, (key, limit) in LIMITS.items():
        value = foreign.take(name, kinds.whole)
        if value is not None and (foreign.has(name) or suits(value, limit, [resolution])):
            ours.set(key, value, name)


def suits(value: int, limit: Callable[..., float], sizes: list[Any]) -> bool:
    """Whether a limit of buckets holds for pictures of these sizes; one that is not known is no objection."""
    sides = [math.sqrt(s[0] * s[1]) if isinstance(s, list) else s for s in sizes if s is not None]
    return limit(value, *sides) == value if sides else True


def _cache(foreign: Foreign, ours: Ours) -> None:
    memory, disk = foreign.take("cache_latents", kinds.flag), foreign.take("cache_latents_to_disk", kinds.flag)
    if not foreign.has("cache_latents") and any(foreign.take(n, kinds.flag) for n in ("color_aug", "random_crop")):
        memory = False  # only the dialect's own value, and it would contradict
    if memory is not None or disk is not None:
        where = "disk" if disk else "memory" if memory else "none"
        ours.set("data.cache.latents", where, "cache_latents", "cache_latents_to_disk")


def _token_warmup(foreign: Foreign, ours: Ours) -> None:
    given = foreign.take("token_warmup_step", kinds.number) or 0
    if (steps := warmup_steps(foreign, given)) is None:
        foreign.leave("token_warmup_step", NO_TOTAL)
    elif given:
        ours.set("data.captions.token_warmup_steps", steps, "token_warmup_step")


NO_TOTAL = "a share of a number of steps that the file does not give"


def warmup_steps(foreign: Foreign, given: float) -> int | None:
    """Optimizer steps from a number of them or, below 1, a share of all; None where these are not known."""
    if not 0 < given < 1:
        return int(given)
    total = None if foreign.has("max_train_epochs") else foreign.take("max_train_steps", kinds.whole)
    return int(given * total) if total else None
