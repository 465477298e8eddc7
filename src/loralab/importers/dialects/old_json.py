"""The JSON files of the LoRA Easy Training scripts: the old names.

Absent keys have those scripts' defaults. null and "" pass nothing on to sd-scripts, whose defaults then apply; the same
holds for 0 where it means "not set". Steps take precedence over epochs. Warm-up is a share of the steps.
"""

from __future__ import annotations

from typing import Any

from loralab.importers.content import Content
from loralab.importers.dialects import command_line
from loralab.importers.dialects.defaults import OLD_SCRIPTS, SD_SCRIPTS
from loralab.importers.foreign import Foreign, is_zero
from loralab.schema.catalogue import OPTIONS

SECTION = "loralab"
"""The section of our own files beside the old names."""

LATER = {
    "ext_sd_script_args": "additional_parameters",
    "height_resolution": "height_resolution",
    "list_of_json_to_run": "list_of_json_to_run",
    "locon": "locon",
    "locon_alpha": "network_args.conv_alpha",
    "locon_dim": "network_args.conv_dim",
    "lyco": "lyco",
    "save_at_n_epochs": "save_every_n_epochs",
    "save_json_name": "save_json_name",
    "use_lion": "use_lion_optimizer",
    "use_sdxl": "sdxl",
    "v_parameterization": "v_parameterization",
}
"""Names in other versions of those scripts."""

ARGUMENTS = ("algo", "conv_dim", "conv_alpha", "use_conv_cp", "use_cp")
"""Arguments of networks that some versions have outside `network_args`."""

OLD = {**{option.old: name for name, option in OPTIONS.items() if option.old}, **LATER, SECTION: SECTION}

NAMES = {
    **{name: name for name in OPTIONS if name not in ("epoch", "lr_warmup")},
    **{name: f"network_args.{name}" for name in ARGUMENTS},
    **OLD,
}
"""Those scripts accept sd-scripts' names, too."""

_ZERO_IS_NOTHING = """
bucket_reso_steps caption_dropout_every_n_epochs caption_dropout_rate caption_tag_dropout_rate clip_skip
gradient_accumulation_steps keep_tokens learning_rate lr_scheduler_num_cycles lr_scheduler_power max_train_epochs
height_resolution max_train_steps network_alpha network_args.conv_alpha network_args.conv_dim save_every_n_epochs
text_encoder_lr unet_lr warmup_lr_ratio
"""
ZERO_IS_NOTHING = frozenset(_ZERO_IS_NOTHING.split())

BLANK = {
    **{k: v for k, v in SD_SCRIPTS.items() if k not in ("max_train_steps", "network_alpha")},
    "max_train_epochs": 1,
}


def read(content: Content) -> Foreign:
    found = Foreign("old-json", content, NAMES, OLD_SCRIPTS, BLANK)
    table: dict[str, Any] = content.data
    for key, value in table.items():
        if key != SECTION:
            name = NAMES.get(key, key)
            found.add(key, name, value, _is_nothing(name, value))
    _network(found)
    command_line.additional(found)
    if "learning_rate" in found.options and not found.has("learning_rate"):
        found.warnings.append(f"sets no learning rate: the default of sd-scripts is {BLANK['learning_rate']:g}")
    return found


def _network(found: Foreign) -> None:
    """`lyco` chooses LyCORIS, `locon` its predecessor; `locon_dim` and `locon_alpha` override `network_args`."""
    lyco = found.take("lyco")
    if lyco or (lyco is None and found.has("network_args.algo") and not found.has("network_module")):
        found.imply("network_module", "lyco" if lyco else "algo", "lycoris.kohya")
    elif found.take("locon"):
        found.imply("network_module", "locon", "locon.locon_kohya")
    given = found.options.get("network_args")
    if isinstance(given, dict):
        rest = {name: value for name, value in given.items() if not found.has(f"network_args.{name}")}
        found.options["network_args"] = rest
        found.warnings += [
            f"defines {name} twice: {found.keys[f'network_args.{name}']} is used" for name in given.keys() - rest.keys()
        ]


def _is_nothing(name: str, value: Any) -> bool:
    return value in (None, "", []) or (name in ZERO_IS_NOTHING and is_zero(value))
