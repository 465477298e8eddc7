"""The JSON files of the LoRA Easy Training scripts: the old names.

Absent keys have those scripts' own values. null and "" hand nothing on to sd-scripts, whose value holds then; so does 0
where it stands for "not set". Steps decide before epochs. Warm-up is a share of the steps.
"""

from __future__ import annotations

from typing import Any

from loralab.settings.content import Content
from loralab.settings.dialects.defaults import OLD_SCRIPTS, SD_SCRIPTS
from loralab.settings.foreign import Foreign
from loralab.settings.table import OPTIONS

SECTION = "loralab"
"""What this project's own files have beside the old names."""

LATER = {
    "save_at_n_epochs": "save_every_n_epochs",
    "use_lion": "use_lion_optimizer",
    "use_sdxl": "sdxl",
    "v_parameterization": "v_parameterization",
}
"""Names of other versions of those scripts."""

OLD = {**{option.old: name for name, option in OPTIONS.items() if option.old}, **LATER, SECTION: SECTION}

NAMES = {**{name: name for name in OPTIONS if name not in ("epoch", "lr_warmup")}, **OLD}
"""Those scripts take sd-scripts' names too."""

_ZERO_IS_NOTHING = """
bucket_reso_steps caption_dropout_every_n_epochs caption_dropout_rate caption_tag_dropout_rate clip_skip
gradient_accumulation_steps keep_tokens learning_rate lr_scheduler_num_cycles lr_scheduler_power max_train_epochs
max_train_steps network_alpha save_every_n_epochs text_encoder_lr unet_lr warmup_lr_ratio
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
    if found.has("load_json_path"):
        found.absent = found.blank = {}  # what it does not say, that other file says
    if "learning_rate" in found.options and not found.has("learning_rate"):
        found.warnings.append(f"gives no learning rate, which for sd-scripts is {BLANK['learning_rate']:g}")
    return found


def _is_nothing(name: str, value: Any) -> bool:
    if value is None or value == "" or value == []:
        return True
    try:
        return name in ZERO_IS_NOTHING and float(value) == 0
    except (TypeError, ValueError):
        return False
