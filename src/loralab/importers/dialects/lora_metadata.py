"""Training metadata of a LoRA file: the `ss_*` names, in a safetensors file or written out as JSON.

All values are texts, including None. Absent keys keep the defaults of loralab, since their values are unknown. Steps
take precedence over epochs. Warm-up is in optimizer steps, below 1 a share of them. The base model and image folders
are known by name only, not by path. In our own files only the `loralab` section is used.
"""

from __future__ import annotations

import json
from typing import Any

from loralab.importers.content import Content, no_settings
from loralab.importers.foreign import Foreign, Left
from loralab.importers.section import NAME
from loralab.models.registry import FAMILIES
from loralab.packages import is_own
from loralab.schema.catalogue import OPTIONS

PREFIX = "ss_"
FAMILY = "ss_base_model_version"

OWN = {
    "num_epochs": "max_train_epochs",
    "optimizer": "optimizer_type",
    "debiased_estimation": "debiased_estimation_loss",
}
"""Names of options whose value is written in another form."""

_RESULTS = """
bucket_info epoch new_sd_model_hash new_vae_hash num_batches_per_epoch num_reg_images
num_train_images num_validation_images sd_model_hash sd_scripts_commit_hash session_id steps tag_frequency
total_batch_size training_finished_at training_started_at vae_hash
"""
RESULTS = frozenset(_RESULTS.split())
"""Results of that run, and what was counted in it."""

NOT_PLACES = {
    "sd_model_name": "the name of the base model, not its path: set model.base",
    "vae_name": "the name of the VAE, not its path: set model.vae",
    "dataset_dirs": "the names of image folders, not their paths: set data.folder",
    "reg_dataset_dirs": "the names of image folders, not their paths: set data.reg_folder",
    "datasets": "the names of image folders, not their paths: set data.folder or data.folders",
}

NOT_SETTINGS = frozenset(NOT_PLACES) | RESULTS

NAMES = {
    **{PREFIX + name: name for name in OPTIONS if not name.startswith("network_args.")},
    **{option.metadata: name for name, option in OPTIONS.items() if option.ss},
    **{PREFIX + key: name for key, name in OWN.items()},
    **{PREFIX + key: "" for key in NOT_SETTINGS},
    FAMILY: "sdxl",
}


def read(content: Content) -> Foreign:
    found = Foreign("lora-metadata", content, NAMES)
    metadata = content.data.get("__metadata__", {}) if content.format == "safetensors" else content.data
    if not any(key.startswith(PREFIX) for key in metadata):
        remedy = "give the settings file that it was trained with"
        raise no_settings(content.path, "contains no training metadata", remedy)
    is_ours = NAME in metadata
    for key, value in metadata.items():
        _take(found, key, value, is_ours)
    if is_own(own := str(metadata.get("ss_network_module"))):
        words = f"was trained with {own}, and a file cannot choose a class: add adapter._target_={own} allow=[{own}]"
        found.warnings.append(words)
    if is_ours:
        return found
    _network(found)
    _family(found, str(metadata.get(FAMILY) or ""), str(metadata.get("modelspec.prediction_type")))
    _parts(found, content)
    _optimizer(found)
    if found.has("max_train_steps"):
        found.warnings.append("was trained for that many steps on its own images: other images may need another number")
    return found


def _take(found: Foreign, key: str, value: Any, is_ours: bool) -> None:
    name = key.removeprefix(PREFIX)
    if key == NAME:
        return
    if key.startswith(("modelspec.", "sshs_")):
        found.left.append(Left(key, value, "describes the file", is_setting=False))
    elif key.startswith(PREFIX) and name in RESULTS:
        found.left.append(Left(key, value, "a result of that run, not a setting", is_setting=False))
    elif key.startswith(PREFIX) and name in NOT_PLACES:
        found.left.append(Left(key, value, NOT_PLACES[name]))
    elif key != FAMILY and not is_ours:
        found.add(key, NAMES.get(key, key), value, empty=value in ("None", "", None))


def _network(found: Foreign) -> None:
    """Parses the arguments, which are a JSON text."""
    given = found.options.get("network_args")
    if not found.has("network_args") or not isinstance(given, str):
        return
    try:
        table = json.loads(given)
    except (ValueError, RecursionError) as error:
        raise found.error("ss_network_args", "is not valid JSON", "remove it") from error
    if isinstance(table, dict):
        found.options["network_args"] = {name: value for name, value in table.items() if value not in (None, "None")}


def _family(found: Foreign, version: str, prediction: str) -> None:
    starts = {name: row.version_starts for name, row in FAMILIES.items() if row.version_starts}
    found.family = next((name for name, start in starts.items() if version.startswith(start)), "")
    if found.family:
        found.imply(NAMES[FAMILY], FAMILY, FAMILIES[found.family].flag == NAMES[FAMILY])
    elif version not in ("", "None"):
        found.left.append(Left(FAMILY, version, "another model family", "model"))
    if found.has("timestep_sampling") and found.family and "flow" in FAMILIES[found.family].predictions[1:]:
        found.imply("flow_model", "ss_timestep_sampling", True)
    if prediction == "v":
        found.imply("v_parameterization", "modelspec.prediction_type", True)


def _parts(found: Foreign, content: Content) -> None:
    """The names of the tensors show which parts were trained."""
    names = [name for name in content.data if name.startswith("lora_")] if content.format == "safetensors" else []
    unet = any(name.startswith("lora_unet") for name in names)
    text = any(name.startswith("lora_te") for name in names)
    if unet != text:
        flag = "network_train_unet_only" if unet else "network_train_text_encoder_only"
        found.imply(flag, "the tensors", True)


def _optimizer(found: Foreign) -> None:
    """Splits `module.Class(name=value,…)` into the class and its arguments."""
    given = found.options.get("optimizer_type")
    if isinstance(given, str) and given.endswith(")") and "(" in given:
        name, _, arguments = given[:-1].partition("(")
        found.options["optimizer_type"] = name
        if arguments:
            found.imply("optimizer_args", "ss_optimizer", _pairs(arguments))


def _pairs(arguments: str) -> list[str]:
    """name=value pairs separated by commas, which values may contain as well: betas=(0.9, 0.99)."""
    pairs: list[str] = []
    for part in arguments.split(","):
        if "=" in part or not pairs:
            pairs.append(part.strip())
        else:
            pairs[-1] += f",{part}"
    return pairs
