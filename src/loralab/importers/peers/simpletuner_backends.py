"""SimpleTuner's data backends: each of local images is a folder with settings of its own."""

from __future__ import annotations

import math
from typing import Any

from loralab.importers.foreign import Foreign, Left
from loralab.importers.peers.entries import Shared, entry, share
from loralab.importers.peers.rows import row, table, without
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce

ROWS = table(
    row("instance_data_dir", "path"),
    row("repeats", "repeats"),
    row("is_regularisation_data", "is_reg"),
    row("is_regularization_data", "is_reg"),
    row("class_tokens", "class_tokens"),
    row("caption_dropout_probability", "captions.dropout_rate"),
    row("captions.prefix", "captions.prefix"),
    row("captions.extension", "captions.extension"),
    row("augment.random_crop", "augment.random_crop"),
    *without({"does not change what is trained": "id type dataset_type default cache_dir* cache_file_suffix "
              "skip_file_discovery preserve_data_backend_cache vae_cache_* text_embeds metadata_backend disabled "
              "maximum_image_size target_downsample_size write_batch_size read_batch_size image_embeds "
              "hash_filenames instance_prompt aspect_bucket_worker_count minimum_aspect_ratio maximum_aspect_ratio"},
             neutral=True),
    *without({"is not supported": "probability crop_aspect_buckets parquet parquet.* csv* conditioning* video* *"}),
)  # fmt: skip
NO_CAPTIONS = ".no_captions"
"""An extension that no caption file has: the caption is that of the folder."""


def recognises(given: list[Any]) -> bool:
    """Whether a list is one of data backends."""
    marks = {"dataset_type", "instance_data_dir", "caption_strategy", "cache_dir_vae"}
    keys = [set(one) for one in given if isinstance(one, dict)]
    return bool(keys) and all("id" in of and of & marks for of in keys)


def side(size: float, kind: str) -> int:
    """The side of a square of an image's area in pixels; megapixels are multiples of 1024²."""
    return round(math.sqrt(max(size, 0.0)) * 1024 / 64) * 64 if kind == "area" else int(size)


def folders(foreign: Foreign, ours: Ours, given: list[Any]) -> None:
    """Each backend of local images becomes an entry of data.folders."""
    found: list[dict[str, Any]] = []
    shared: Shared = {}
    names = ("data_backend_config", "backends")
    for number, backend in enumerate(given):
        where = f"backends.{number}"
        if not isinstance(backend, dict):
            raise foreign.error(where, "is not a table", "write a data backend of SimpleTuner")
        if reason := _skipped(backend):
            is_cache = backend.get("dataset_type") in ("text_embeds", "image_embeds")
            foreign.left.append(Left(where, backend.get("id"), reason, is_setting=not is_cache))
            continue
        found.append(entry(foreign, where, _plain(foreign, where, backend, shared), ROWS, {}, {}))
    if not found:
        return
    ours.choose("data", "folder", *names)
    ours.set("data.folders", found, *names)
    sizes = list(dict.fromkeys(size for key, (_, size) in shared.items() if key.startswith("resolution ")))
    if sizes:
        ours.set("data.resolution", sizes[0] if len(sizes) == 1 else [[size, size] for size in sizes], *names)
    if len(sizes) > 1:
        foreign.warnings.append("has several resolutions: every folder is trained at each of them")
    if "square" in shared:
        ours.set("data.buckets.enabled", not shared["square"][1], *names)
    if shared.get("least", ("", 0))[1]:
        ours.set("data.min_image_size", shared["least"][1], *names)


def _skipped(backend: dict[str, Any]) -> str:
    """Why a backend is no folder of images; "" where it is one."""
    if backend.get("disabled"):
        return "is disabled"
    kind = backend.get("dataset_type", "image")
    if kind in ("text_embeds", "image_embeds"):
        return "caches are in data.cache_folder"
    if kind != "image":
        return f"{kind} data are not supported"
    if backend.get("type", "local") != "local":
        return f"only local images are read, not those of {backend['type']}: set data.folder"
    return ""


def _plain(foreign: Foreign, where: str, backend: dict[str, Any], shared: Shared) -> dict[str, Any]:
    """A backend with captions, crops and repeats in our terms; what is for all data is put into `shared`."""
    found = dict(backend)
    for key in ("crop", "crop_style", "crop_aspect", "resolution", "resolution_type", "minimum_image_size",
                "caption_strategy", "prepend_instance_prompt", "only_instance_prompt"):  # fmt: skip
        if key in found:
            foreign.datasets_taken.add(f"{where}.{key}")
            del found[key]
    if "repeats" in found and (more := foreign.valid(f"{where}.repeats", found["repeats"], coerce.whole)) is not None:
        found["repeats"] = more + 1  # how often images are seen again
    kind = str(backend.get("resolution_type", "pixel_area"))
    if (size := backend.get("resolution")) is not None:
        number = foreign.valid(f"{where}.resolution", size, coerce.number)
        if number is not None:
            shared[f"resolution {where}"] = (where, side(number, kind))
    square = bool(backend.get("crop")) and backend.get("crop_aspect", "square") == "square"
    share(foreign, shared, "square", f"{where}.crop", square)
    if (least := backend.get("minimum_image_size")) and kind != "area":
        taken = foreign.valid(f"{where}.minimum_image_size", least, coerce.number)
        share(foreign, shared, "least", f"{where}.minimum_image_size", int(taken or 0))
    if backend.get("crop_style") == "random" and backend.get("crop"):
        foreign.warnings.append("caches one random crop of each image: here the centre is cropped")
    return {**found, **_captions(foreign, where, backend)}


def _captions(foreign: Foreign, where: str, backend: dict[str, Any]) -> dict[str, Any]:
    """The caption file's extension, or the one caption of all images."""
    given = backend.get("caption_strategy", foreign.take("caption_strategy") or "filename")
    word = backend.get("instance_prompt")
    if given in ("instanceprompt", "instance_prompt") or backend.get("only_instance_prompt"):
        return {"class_tokens": word, "captions.extension": NO_CAPTIONS}
    if given != "textfile":
        why = "only textfile and instanceprompt are supported: caption files beside the images are read"
        foreign.left.append(Left(f"{where}.caption_strategy", given, why))
    prefix = {"captions.prefix": f"{word} "} if backend.get("prepend_instance_prompt") and word else {}
    return {"captions.extension": ".txt", **prefix}
