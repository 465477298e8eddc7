"""sd-scripts' dataset configuration: tables [general], [[datasets]], [[datasets.subsets]].

It sets nothing about training, where our defaults stay; of the data, absent keys have sd-scripts' defaults.
"""

from __future__ import annotations

from loralab.importers.content import Content
from loralab.importers.foreign import Foreign
from loralab.schema import coerce
from loralab.schema.catalogue import OPTIONS
from loralab.schema.coerce import Coercion

FOLDER = {
    "image_dir": "path",
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

WITHOUT = {
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
