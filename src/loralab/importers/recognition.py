"""The dialects of settings files, recognised by their content."""

from __future__ import annotations

from collections.abc import Iterable
from types import ModuleType

from loralab.errors import user_error
from loralab.importers.content import Content, NotSettings, no_settings, shown
from loralab.importers.dialects import (
    command_line,
    dataset_toml,
    easy_toml,
    kohya_gui,
    lora_metadata,
    old_json,
    sd_scripts_toml,
)
from loralab.importers.peers import ai_toolkit, diffusers_scripts, diffusion_pipe, onetrainer, simpletuner
from loralab.importers.strangers import is_yaml, stranger
from loralab.schema.nearest import nearest

YAML = "convert it to TOML (name = value), or to a YAML in conf/experiment"

PEERS: dict[str, ModuleType] = {
    "onetrainer": onetrainer,
    "ai-toolkit": ai_toolkit,
    "simpletuner": simpletuner,
    "diffusion-pipe": diffusion_pipe,
    "diffusers": diffusers_scripts,
}
"""Trainers with a vocabulary of their own: each has recognises(content) and RULES, too."""

DIALECTS: dict[str, ModuleType] = {
    **PEERS,
    "old-json": old_json,
    "kohya-gui": kohya_gui,
    "easy-toml": easy_toml,
    "sd-scripts-toml": sd_scripts_toml,
    "sd-scripts-dataset": dataset_toml,
    "command-line": command_line,
    "lora-metadata": lora_metadata,
}
"""Each has NAMES (a file's keys → options) and read(content) -> Foreign."""

NAMES = {name: dialect.NAMES for name, dialect in DIALECTS.items()}


def dialect_of(content: Content) -> str:
    """The dialect of a file. Raises NotSettings where it has none."""
    if content.format == "safetensors":
        return "lora-metadata"
    if peer := next((name for name, dialect in PEERS.items() if dialect.recognises(content)), ""):
        return peer
    if program := stranger(content):
        raise no_settings(content.path, f"is {program}, which is not supported")
    if content.format == "text":
        return _of_text(content)
    if not isinstance(content.data, dict):
        kind = "list" if isinstance(content.data, list) else "text"
        remedy = 'write names with values: {"net_dim": 16, …}'
        raise no_settings(content.path, f"is a JSON {kind}, not a table of settings", remedy)
    if any(key.startswith("ss_") for key in content.data):
        return "lora-metadata"
    if easy_toml.recognises(content.data):
        return "easy-toml"
    if isinstance(content.data.get("datasets"), dict):
        raise content.error("datasets", "is a table, not a list of tables", "write [[datasets]]")
    if isinstance(content.data.get("datasets"), list) or isinstance(content.data.get("general"), dict):
        with_training = sd_scripts_toml.settings_beside_datasets(content.data)
        return "sd-scripts-toml" if with_training else "sd-scripts-dataset"
    return _of_table(content)


def _of_text(content: Content) -> str:
    if command_line.recognises(content.data):
        return "command-line"
    if content.path.suffix.lower() in (".toml", ".json"):  # meant as one
        raise user_error(
            "settings.load",
            f"'{shown(str(content.path), 4096)}' is not valid TOML: {content.fault}",
            "correct the line",
        )
    if is_yaml(content.data):
        raise no_settings(content.path, "is YAML, which is not supported for settings of other trainers", YAML)
    raise no_settings(content.path, f"is neither JSON nor TOML nor a start script: {content.fault}")


def _of_table(content: Content) -> str:
    """A TOML is of sd-scripts. A JSON is of the GUI where more of its names belong only to the GUI than only to the old
    scripts; where none do, it is of sd-scripts if it has names that the old scripts did not use."""
    sd_scripts = _lower(sd_scripts_toml.NAMES)
    keys = {key.lower() for key in content.data}
    theirs, old = keys & _lower(kohya_gui.NAMES), keys & _lower(old_json.OLD)
    if content.format == "toml" or not (theirs or old):
        if not sd_scripts.intersection(map(str.lower, _keys(content))):
            raise _nothing_known(content)
        return "sd-scripts-toml"
    only_theirs, only_old = theirs - _lower(old_json.NAMES), old - theirs
    if only_theirs or only_old:
        return "kohya-gui" if len(only_theirs) > len(only_old) else "old-json"
    if theirs <= old:
        return "old-json"
    return "sd-scripts-toml" if theirs <= sd_scripts else "kohya-gui"


def _lower(names: Iterable[str]) -> set[str]:
    return {name.lower() for name in names}


def _keys(content: Content) -> list[str]:
    """The table's keys, those in its sections too."""
    return [*content.data, *(key for value in content.data.values() if isinstance(value, dict) for key in value)]


def _nothing_known(content: Content) -> NotSettings:
    keys = _keys(content)
    names = {key for dialect in NAMES.values() for key in dialect}
    near = next(((key, close) for key in keys if (close := nearest(key, names, 0.8))), None)
    found = "contains no known setting" + (f": {', '.join(map(shown, keys[:5]))}" if keys else "")
    return no_settings(content.path, found, f"did you mean {near[1]} instead of {shown(near[0])}?" if near else "")
