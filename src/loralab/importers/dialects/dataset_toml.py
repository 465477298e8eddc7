"""sd-scripts' dataset configuration: tables [general], [[datasets]], [[datasets.subsets]]; and musubi-tuner's, in which
each of [[datasets]] is one folder.

It sets nothing about training, where our defaults stay; of the data, absent keys have sd-scripts' defaults.
"""

from __future__ import annotations

from typing import Any

from loralab.importers.content import Content
from loralab.importers.foreign import Foreign
from loralab.schema import coerce
from loralab.schema.catalogue import OPTIONS
from loralab.schema.coerce import Coercion

FOLDER = {
    "image_dir": "path",
    "image_directory": "path",
    "image_jsonl_file": "metadata",
    "num_repeats": "repeats",
    "class_tokens": "class_tokens",
    "conditioning_data_dir": "mask_folder",
    "metadata_file": "metadata",
    "is_reg": "is_reg",
    **{
        name: option.key.removeprefix("data.")
        for name, option in OPTIONS.items()
        if option.key.startswith(("data.captions.", "data.augment."))
    },
}
"""Key of a subset → key of our entry; each may be in its dataset or in [general] instead."""

_OF_ALL = """
resolution enable_bucket min_bucket_reso max_bucket_reso bucket_reso_steps bucket_no_upscale validation_split alpha_mask
max_token_length prior_loss_weight
"""
DATA = {"batch_size": OPTIONS["train_batch_size"].key, **{name: OPTIONS[name].key for name in _OF_ALL.split()}}
"""Keys that apply to all data here, wherever a configuration sets them → our key."""

KINDS = {
    "image_dir": coerce.path,
    "image_directory": coerce.path,
    "image_jsonl_file": coerce.path,
    "num_repeats": coerce.whole,
    "class_tokens": coerce.text,
    "metadata_file": coerce.path,
    "is_reg": coerce.flag,
    "batch_size": coerce.whole,
}
"""Kinds of values of those that are no options of sd-scripts' training."""


def kind_of(key: str) -> Coercion:
    """How a value of a dataset configuration is converted."""
    return KINDS[key] if key in KINDS else OPTIONS[key].coercion


ABSENT = {"caption_extension": ".caption"}
DATA_ABSENT = {"batch_size": 1, "enable_bucket": False}
"""sd-scripts' defaults, where no training configuration gives them."""

_CONTROL = """
control_directory control_resolution multiple_target no_resize_control fp_1f_clean_indices fp_1f_no_post
fp_1f_target_index fp_latent_window_size flux_kontext_no_resize_control qwen_image_edit_control_resolution
qwen_image_edit_no_resize_control
"""
WITHOUT = {
    **dict.fromkeys(_CONTROL.split(), "for models that edit an image"),
    "cache_directory": "caches are in data.cache_folder",
    "skip_corrupted_cache": "damaged caches are always made anew",
    "cache_info": "metadata of images is always cached",
    "custom_attributes": "attributes for custom code",
    "debug_dataset": "to inspect the data run loralab doctor",
    "face_crop_aug_range": "crops around faces",
    "name": "a name for display only",
    "network_multiplier": "scaling of the adapter during training",
    "resize_interpolation": "images are always resized by area when shrinking and Lanczos otherwise",
    "validation_seed": "held-out images are chosen by their names",
    "skip_image_resolution": "set data.min_image_size instead",
}

NAMES: dict[str, str] = {"general": "general", "datasets": "datasets"}

IMAGES = ("image_dir", "image_directory", "image_jsonl_file")
"""Keys of which a folder of images has one; the last two are musubi-tuner's."""


def of_musubi(datasets: Any) -> bool:
    """Whether the folders of images are [[datasets]] themselves."""
    tables = datasets.get("datasets") if isinstance(datasets, dict) else None
    return isinstance(tables, list) and any(isinstance(one, dict) and set(IMAGES[1:]) & one.keys() for one in tables)


def read(content: Content) -> Foreign:
    found = Foreign("sd-scripts-dataset", content, NAMES)
    found.datasets = content.data
    for key in content.data:
        if key not in NAMES:
            found.unknown.append(key)
    return found


def follow(found: Foreign) -> None:
    """Reads the file that `dataset_config` names."""
    content = found.file_named_by("dataset_config")
    if content is None:
        return
    if not isinstance(content.data, dict) or not isinstance(content.data.get("datasets"), list):
        what = f"'{found.options['dataset_config']}' is not a dataset configuration"
        raise found.error(found.keys["dataset_config"], what, "give a file with [[datasets]] in it")
    found.datasets = content.data
