"""The TOML files of the LoRA Easy Training scripts: sections with `args` and `dataset_args`, and a list of subsets.

They contain sd-scripts' options; absent ones have its defaults. Values that are empty, 0 or off are not passed on, so
that the defaults apply to them, too. Epochs take precedence over steps. Warm-up is a share of the steps. Some
arguments of the network choose its module.
"""

from __future__ import annotations

from typing import Any

from loralab.importers.content import Content
from loralab.importers.dialects import sd_scripts_toml
from loralab.importers.dialects.defaults import SD_SCRIPTS
from loralab.importers.foreign import Foreign, Left

TABLES = ("args", "dataset_args")
SUBSETS, MODE, FA = "subsets", "train_mode", "fa"

NAMES = {
    **sd_scripts_toml.NAMES,
    "warmup_ratio": "warmup_lr_ratio",
    "tag_occurrence": "tag_occurrence_txt_file",
    SUBSETS: SUBSETS,
    MODE: MODE,
    FA: FA,
}


def recognises(data: dict[str, Any]) -> bool:
    """Whether a table is such a file."""
    return any(isinstance(section, dict) and set(TABLES) & set(section) for section in data.values())


def read(content: Content) -> Foreign:
    found = Foreign("easy-toml", content, NAMES, SD_SCRIPTS, SD_SCRIPTS)
    general: dict[str, Any] = {}
    for section, table in content.data.items():
        if section == SUBSETS:
            continue
        for key, value in table.items() if isinstance(table, dict) else [(section, table)]:
            if key == "dataset_args" and isinstance(value, dict):
                general |= {name: given for name, given in value.items() if given}
            elif key == "args" and isinstance(value, dict):
                for option, given in value.items():
                    _take(found, option, given)
            else:
                _take(found, key, value)
    if SUBSETS in content.data or general:
        found.datasets = {"general": general, "datasets": [{SUBSETS: content.data.get(SUBSETS, [])}]}
    _network(found)
    return found


def _take(found: Foreign, key: str, value: Any) -> None:
    if key == MODE:
        if value != "lora":
            found.left.append(Left(MODE, value, "does not train a LoRA", "adapter"))
    elif key == FA:
        if value:
            found.imply("network_module", FA, "networks.lora_fa")
    else:
        sd_scripts_toml.take(found, key, value, NAMES, empty=not value)


def _network(found: Foreign) -> None:
    """LyCORIS and DyLoRA are chosen by an argument that only they have, before LoRA-FA."""
    given = found.take("network_args") or {}
    modules = {"algo": "lycoris.kohya", "unit": "networks.dylora"}
    if argument := next((name for name in modules if given.get(name)), ""):
        if found.keys.get("network_module") == FA:
            found.left.append(Left(FA, True, f"overridden by network_args.{argument}"))
        found.imply("network_module", f"network_args.{argument}", modules[argument])
