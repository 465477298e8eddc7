"""A dataset configuration: each subset becomes an entry of data.folders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from loralab.settings import kinds
from loralab.settings.dialects.defaults import SD_SCRIPTS
from loralab.settings.foreign import SPECIAL, Foreign, Left
from loralab.settings.kinds import Kind
from loralab.settings.rules.data import LIMITS, NO_TOTAL, suits, warmup_steps
from loralab.settings.rules.ours import Ours

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
"""What a subset says, as a key of our entry; any of it may stand in its dataset or in [general] instead."""

DATA: dict[str, tuple[str, Kind]] = {
    "resolution": ("data.resolution", kinds.size),
    "batch_size": ("data.batch_size", kinds.whole),
    "enable_bucket": ("data.buckets.enabled", kinds.flag),
    "min_bucket_reso": ("data.buckets.min_resolution", kinds.whole),
    "max_bucket_reso": ("data.buckets.max_resolution", kinds.whole),
    "bucket_reso_steps": ("data.buckets.step", kinds.whole),
    "bucket_no_upscale": ("data.buckets.no_upscale", kinds.flag),
    "validation_split": ("data.validation.share", kinds.number),
    "alpha_mask": ("data.alpha_mask", kinds.flag),
    "max_token_length": ("model.max_token_length", kinds.whole),
    "prior_loss_weight": ("objective.prior_loss_weight", kinds.number),
}
"""What holds for all data here, wherever a configuration says it."""

ABSENT = {"caption_extension": ".caption"}
DATA_ABSENT = {"batch_size": 1, "enable_bucket": False}
"""sd-scripts' own values, where no configuration stands behind the data's that says them."""

WITHOUT = {
    "cache_info": "what is known of images is always kept",
    "custom_attributes": "attributes for code of one's own",
    "debug_dataset": "looking at the data: loralab doctor",
    "face_crop_aug_range": "crops around faces",
    "name": "what a subset is called in a list",
    "network_multiplier": "the scale of the adapter while training",
    "resize_interpolation": "the resize filters are area when shrinking and Lanczos otherwise",
    "validation_seed": "which images are held out follows from their names",
    "skip_image_resolution": "see data.min_image_size",
}


def folders(foreign: Foreign, ours: Ours) -> None:
    if foreign.datasets is None:
        return
    general = _table(foreign, "general", foreign.datasets.get("general", {}))
    entries: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    shared: dict[str, list[tuple[str, Any]]] = {}
    for place, dataset in _tables(foreign, "datasets", foreign.datasets.get("datasets", [])):
        subsets = list(_tables(foreign, f"{place}.subsets", dataset.get("subsets", [])))
        own = {key: value for key, value in dataset.items() if key != "subsets"}
        for where, table in (("general", general), (place, own), *subsets):
            _report(foreign, where, table)
            for key in DATA.keys() & table.keys():
                value = _checked(foreign, f"{where}.{key}", table[key], DATA[key][1])
                shared.setdefault(key, []).append((f"{where}.{key}", value))
        tables += [{**general, **own, **subset} for _, subset in subsets]
        absent = {} if foreign.absent else ABSENT
        entries += [_entry(foreign, where, {**absent, **general, **own, **subset}) for where, subset in subsets]
    if entries:
        ours.choose("data", "folder", "dataset_config")
        ours.values.pop("data.folder", None)
        ours.set("data.folders", _unique(entries), "dataset_config")
    elif foreign.dialect == "easy-toml":
        foreign.warnings.append("names no images: give data.folder")
    else:
        raise foreign.error("datasets", "has no subsets, so no images", "add [[datasets.subsets]] with image_dir")
    _shared(foreign, ours, shared)
    _limits(foreign, ours)
    for key in sorted(key for key in shared if not all(key in table for table in tables)):
        foreign.warnings.append(f"gives {key} for a part of the data: here it holds for all")


def _entry(foreign: Foreign, where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    if "image_dir" not in table:
        raise foreign.error(f"{where}.image_dir", "is missing", "give the folder of the subset's images")
    entry: dict[str, Any] = {}
    for key, (ours, kind) in FOLDER.items():
        if key not in table or (table[key] == "" and key != "class_tokens"):
            continue
        group, _, name = ours.rpartition(".")
        value = _checked(foreign, f"{where}.{key}", table[key], kind)
        if key == "token_warmup_step" and (value := warmup_steps(foreign, value)) is None:
            foreign.left.append(Left(f"{where}.{key}", table[key], NO_TOTAL))
            continue
        (entry.setdefault(group, {}) if group else entry)[name] = value
    return entry


def _shared(foreign: Foreign, ours: Ours, shared: dict[str, list[tuple[str, Any]]]) -> None:
    """One value of each setting for all data: of several, sizes are trained on all, of others the first counts."""
    for key, (target, _) in DATA.items():
        found = shared.get(key, [])
        values = _unique([value for _, value in found])
        if not values:
            if key in DATA_ABSENT and foreign.absent == {}:
                ours.set(target, DATA_ABSENT[key], "dataset_config")
            continue
        if key == "resolution" and len(values) > 1:
            foreign.warnings.append("has several resolutions: every folder is trained at each of them")
            ours.set(target, [size if isinstance(size, list) else [size, size] for size in values], "dataset_config")
            continue
        ours.set(target, values[0], "dataset_config")
        for where, value in found:
            if value != values[0]:
                foreign.left.append(Left(where, value, f"one value holds for all data: {values[0]} of {found[0][0]}"))


def _limits(foreign: Foreign, ours: Ours) -> None:
    """sd-scripts' own limits of buckets, where the resolutions go with them."""
    if ours.values.get("data.buckets.enabled") is not True:
        return
    sizes = ours.values.get("data.resolution")
    several = sizes if isinstance(sizes, list) and isinstance(sizes[0], list) else [sizes]
    for name, (key, limit) in LIMITS.items():
        if key not in ours.values and suits(SD_SCRIPTS[name], limit, several):
            ours.set(key, SD_SCRIPTS[name], "dataset_config")


def _report(foreign: Foreign, where: str, table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        place = f"{where}.{key}"
        if key in FOLDER or key in DATA:
            foreign.datasets_taken.add(place)
        if place in foreign.datasets_taken or place in {left.key for left in foreign.left} or place in foreign.unknown:
            continue
        if SPECIAL.fullmatch(key):
            raise foreign.builds(place)
        near = {name.lower(): name for name in (*FOLDER, *DATA)}.get(key.lower())
        if near:
            raise foreign.error(place, "is written with other capitals", f"write {near}")
        if key in WITHOUT:
            foreign.left.append(Left(place, value, WITHOUT[key]))
        else:
            foreign.unknown.append(place)


def _tables(foreign: Foreign, where: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(value, list):
        raise foreign.error(where, "is no list of tables", f"write [[{where}]]")
    for number, table in enumerate(value):
        yield f"{where}.{number}", _table(foreign, f"{where}.{number}", table)


def _table(foreign: Foreign, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise foreign.error(where, "is no table", "write key = value lines below its heading")
    return value


def _checked(foreign: Foreign, where: str, value: Any, kind: Callable[[Any], Any]) -> Any:
    try:
        return kind(value)
    except ValueError as error:
        raise foreign.error(where, f"{value!r:.80} does not fit", f"valid: {error}") from error


def _unique(values: list[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]
