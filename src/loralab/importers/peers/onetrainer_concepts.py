"""OneTrainer's concepts: each is a folder of images with rules of its own."""

from __future__ import annotations

import os
from typing import Any

from loralab.importers.foreign import Foreign, Left
from loralab.importers.peers.entries import entry
from loralab.importers.peers.rows import row, table, without
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce

ROWS = table(
    row("path", "path"),
    row("balancing", "repeats"),
    row("loss_weight", "weight"),
    row("image.enable_random_flip", "augment.flip"),
    row("image.enable_crop_jitter", "augment.random_crop"),
    row("text.enable_tag_shuffling", "captions.shuffle"),
    row("text.tag_delimiter", "captions.separator"),
    row("text.keep_tags_count", "captions.keep_tokens"),
    row("text.tag_dropout_probability", "captions.tag_dropout_rate"),
    *without(
        {
            "for display only": "name concept_stats concept_stats.*",
            "everything is seeded by seed": "seed",
            "does not change what is trained": "__version *.__version text_variations enabled include_subdirectories",
        },
        neutral=True,
    ),
    *without(
        {
            "only random_crop, flip and color are supported: data.augment": "image.*",
            "only captions beside the images are supported: set class_tokens of data.folders": (
                "text.prompt_source text.prompt_path"
            ),
            "tags are dropped one by one, and those in front are kept": "text.tag_dropout_*",
            "changes of capital letters are not supported": "text.caps_*",
            "a number of samples is not supported: 1 repeat": "balancing_strategy",
            "only STANDARD and VALIDATION concepts are supported": "type",
            "only with random crops of cached images: set data.cache.variants": "image_variations",
            "is not trained on": "validation_concept",
            "overridden by balancing": "repeats",
        }
    ),
)
NAMES = {"concepts": "concepts"}
ABSENT = {"image.enable_crop_jitter": True, "image.enable_random_flip": True, "balancing": 1}
"""OneTrainer's defaults, of what can change the result."""

OFF = {
    "image_variations": 1, "validation_concept": False, "type": "STANDARD", "balancing_strategy": "REPEATS",
    "repeats": 1.0,
    "text.prompt_source": "sample", "text.tag_dropout_enable": True, "text.tag_dropout_special_tags_mode": "NONE",
    "text.caps_randomize_mode": "capslock, title, first, random", "image.resolution_override": "512",
}  # fmt: skip
"""Values that say nothing."""


def recognises(given: list[Any]) -> bool:
    """Whether a list is one of concepts."""
    keys = [set(one) for one in given if isinstance(one, dict)]
    return bool(keys) and all({"path", "image", "text"} <= of or {"path", "text", "balancing"} <= of for of in keys)


def folders(foreign: Foreign, ours: Ours, key: str, given: list[Any]) -> None:
    """Each concept that is on becomes an entry of data.folders, the first for validation data.validation.folder."""
    found: list[dict[str, Any]] = []
    for number, concept in enumerate(given):
        where = f"{key}.{number}"
        if not isinstance(concept, dict):
            raise foreign.error(where, "is not a table", "write a concept of OneTrainer")
        if not concept.get("enabled", True):
            foreign.left.append(Left(where, concept.get("name") or concept.get("path"), "is not enabled"))
        elif concept.get("validation_concept") or concept.get("type") == "VALIDATION":
            _validation(foreign, ours, where, concept)
        else:
            found.append(entry(foreign, where, _plain(foreign, where, concept), ROWS, OFF, ABSENT))
    if not found:
        raise foreign.error(key, "contains no enabled concept, so no images", "enable one, or set data.folder")
    ours.choose("data", "folder", "concepts", "concept_file_name")
    ours.set("data.folders", found, "concepts", "concept_file_name")
    _cache(foreign, ours, found)


def _plain(foreign: Foreign, where: str, concept: dict[str, Any]) -> dict[str, Any]:
    """A concept without what is off, and with whole repeats."""
    found = {**concept, "text": dict(concept.get("text", {}))}
    if "repeats" in found and "balancing" not in found:  # before version 1
        found["balancing"] = found.pop("repeats")
    repeats = found.get("balancing", 1)
    if found.get("balancing_strategy") == "SAMPLES":
        found["balancing"] = 1
    elif isinstance(repeats, float) and repeats != int(repeats):
        found["balancing"] = max(1, round(repeats))
        foreign.warnings.append(f"repeats {where} {repeats:g} times: here {found['balancing']}")
    _tags(foreign, f"{where}.text", found["text"])
    if not concept.get("include_subdirectories") and _has_folders(found.get("path")):
        foreign.warnings.append(f"ignores the sub-folders of {where}: here their images are used")
    return found


def _tags(foreign: Foreign, where: str, text: dict[str, Any]) -> None:
    """Takes out what has no effect, with a report."""
    shuffles, drops = text.get("enable_tag_shuffling"), text.get("tag_dropout_enable")
    by_one = drops and text.get("tag_dropout_mode") == "RANDOM"
    unused = {
        "tag_dropout_probability": "" if by_one else "only mode RANDOM is supported" if drops else "is off",
        "tag_dropout_enable": "is off" if not drops else "",
        "tag_dropout_mode": "is off" if by_one or not drops else "",
        **dict.fromkeys(("keep_tags_count", "tag_delimiter"), "" if shuffles or drops else "tags are not shuffled"),
    }
    for key, why in unused.items():
        if key in text and why:
            is_on = drops and key.startswith("tag_dropout") and not by_one
            foreign.left.append(Left(f"{where}.{key}", text.pop(key), why, is_setting=bool(is_on)))


def _has_folders(path: Any) -> bool:
    return isinstance(path, str) and os.path.isdir(path) and any(inside.is_dir() for inside in os.scandir(path))


def _validation(foreign: Foreign, ours: Ours, where: str, concept: dict[str, Any]) -> None:
    if not foreign.absent or not foreign.take("validation") or ours.value("data.validation.folder"):
        foreign.left.append(Left(where, concept.get("path"), "only one folder is validated, where validation is on"))
    elif path := foreign.valid(f"{where}.path", concept.get("path"), coerce.path):
        ours.set("data.validation.folder", path, "validation")


def _cache(foreign: Foreign, ours: Ours, found: list[dict[str, Any]]) -> None:
    """OneTrainer caches one crop of each image: with cached latents the centre is cropped here."""
    if foreign.absent and foreign.take("image_caching"):
        for part in found:
            part.get("augment", {}).pop("random_crop", None)
        foreign.warnings.append("caches one random crop of each image: here the centre is cropped")
