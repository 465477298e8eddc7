"""sd-scripts' dataset configuration: tables [general], [[datasets]], [[datasets.subsets]].

It sets nothing about training, where our defaults stay; of the data, absent keys have sd-scripts' defaults.
"""

from __future__ import annotations

from pathlib import Path

from loralab.errors import UserError
from loralab.importers import content as contents
from loralab.importers.content import Content
from loralab.importers.foreign import Foreign
from loralab.schema import kinds
from loralab.schema.kinds import Kind

FOLDER: dict[str, tuple[str, Kind]] = {
    "image_dir": ("path", kinds.path),
    "num_repeats": ("repeats", kinds.whole),
    "class_tokens": ("class_tokens", kinds.text),
    "conditioning_data_dir": ("mask_folder", kinds.path),
    "metadata_file": ("metadata", kinds.path),
    "is_reg": ("is_reg", kinds.flag),
    "caption_extension": ("captions.extension", kinds.extension),
    "caption_dropout_rate": ("captions.dropout_rate", kinds.number),
    "caption_dropout_every_n_epochs": ("captions.dropout_every_n_epochs", kinds.whole),
    "caption_tag_dropout_rate": ("captions.tag_dropout_rate", kinds.number),
    "shuffle_caption": ("captions.shuffle", kinds.flag),
    "keep_tokens": ("captions.keep_tokens", kinds.whole),
    "keep_tokens_separator": ("captions.keep_tokens_separator", kinds.text),
    "caption_separator": ("captions.separator", kinds.text),
    "secondary_separator": ("captions.secondary_separator", kinds.text),
    "enable_wildcard": ("captions.wildcards", kinds.flag),
    "caption_prefix": ("captions.prefix", kinds.text),
    "caption_suffix": ("captions.suffix", kinds.text),
    "token_warmup_min": ("captions.token_warmup_min", kinds.whole),
    "token_warmup_step": ("captions.token_warmup_steps", kinds.number),
    "color_aug": ("augment.color", kinds.flag),
    "flip_aug": ("augment.flip", kinds.flag),
    "random_crop": ("augment.random_crop", kinds.flag),
}
"""Key of a subset → key of our entry; each may be in its dataset or in [general] instead."""

DATA: dict[str, tuple[str, Kind]] = {
    "resolution": ("data.resolution", kinds.size),
    "batch_size": ("data.batch_size", kinds.whole),
    "enable_bucket": ("data.buckets.enabled", kinds.flag),
    "min_bucket_reso": ("data.buckets.min_resolution", kinds.whole),
    "max_bucket_reso": ("data.buckets.max_resolution", kinds.whole),
    "bucket_reso_steps": ("data.buckets.step", kinds.whole),
    "bucket_no_upscale": ("data.buckets.no_upscale", kinds.flag),
    "validation_split": ("data.validation.split", kinds.number),
    "alpha_mask": ("data.alpha_mask", kinds.flag),
    "max_token_length": ("model.max_token_length", kinds.whole),
    "prior_loss_weight": ("objective.prior_loss_weight", kinds.number),
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
    given = found.take("dataset_config", kinds.path)
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
