"""sd-scripts' dataset configuration: tables [general], [[datasets]], [[datasets.subsets]].

It sets nothing about training, where our defaults stay; of the data, absent keys have sd-scripts' defaults.
"""

from __future__ import annotations

from pathlib import Path

from loralab.errors import UserError
from loralab.importers import content as contents
from loralab.importers.content import Content
from loralab.importers.foreign import Foreign
from loralab.schema import coerce
from loralab.schema.coerce import Coercion

FOLDER: dict[str, tuple[str, Coercion]] = {
    "image_dir": ("path", coerce.path),
    "num_repeats": ("repeats", coerce.whole),
    "class_tokens": ("class_tokens", coerce.text),
    "conditioning_data_dir": ("mask_folder", coerce.path),
    "metadata_file": ("metadata", coerce.path),
    "is_reg": ("is_reg", coerce.flag),
    "caption_extension": ("captions.extension", coerce.extension),
    "caption_dropout_rate": ("captions.dropout_rate", coerce.number),
    "caption_dropout_every_n_epochs": ("captions.dropout_every_n_epochs", coerce.whole),
    "caption_tag_dropout_rate": ("captions.tag_dropout_rate", coerce.number),
    "shuffle_caption": ("captions.shuffle", coerce.flag),
    "keep_tokens": ("captions.keep_tokens", coerce.whole),
    "keep_tokens_separator": ("captions.keep_tokens_separator", coerce.text),
    "caption_separator": ("captions.separator", coerce.text),
    "secondary_separator": ("captions.secondary_separator", coerce.text),
    "enable_wildcard": ("captions.wildcards", coerce.flag),
    "caption_prefix": ("captions.prefix", coerce.text),
    "caption_suffix": ("captions.suffix", coerce.text),
    "token_warmup_min": ("captions.token_warmup_min", coerce.whole),
    "token_warmup_step": ("captions.token_warmup_steps", coerce.number),
    "color_aug": ("augment.color", coerce.flag),
    "flip_aug": ("augment.flip", coerce.flag),
    "random_crop": ("augment.random_crop", coerce.flag),
}
"""Key of a subset → key of our entry; each may be in its dataset or in [general] instead."""

DATA: dict[str, tuple[str, Coercion]] = {
    "resolution": ("data.resolution", coerce.size),
    "batch_size": ("data.batch_size", coerce.whole),
    "enable_bucket": ("data.buckets.enabled", coerce.flag),
    "min_bucket_reso": ("data.buckets.min_resolution", coerce.whole),
    "max_bucket_reso": ("data.buckets.max_resolution", coerce.whole),
    "bucket_reso_steps": ("data.buckets.step", coerce.whole),
    "bucket_no_upscale": ("data.buckets.no_upscale", coerce.flag),
    "validation_split": ("data.validation.split", coerce.number),
    "alpha_mask": ("data.alpha_mask", coerce.flag),
    "max_token_length": ("model.max_token_length", coerce.whole),
    "prior_loss_weight": ("objective.prior_loss_weight", coerce.number),
}
"""Keys that apply to all data here, wherever a configuration sets them."""

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
    """Reads the file that `dataset_config` names; a relative path starts here, or beside the file that names it."""
    given = found.take("dataset_config", coerce.path)
    if given is None:
        return
    path = Path(given)
    beside = found.content.path.parent / path
    try:
        content = contents.read(path if path.exists() or not beside.exists() else beside)
    except UserError as error:
        problem = error.problems[0]
        raise found.error(found.keys["dataset_config"], problem.found, problem.remedy) from error
    if not isinstance(content.data, dict) or not isinstance(content.data.get("datasets"), list):
        remedy = "give a file with [[datasets]] in it"
        raise found.error(found.keys["dataset_config"], f"'{path}' is not a dataset configuration", remedy)
    found.datasets = content.data
