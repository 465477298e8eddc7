"""Writes the settings of a run under the old names, with a section for what these cannot express."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loralab.importers.content import Content
from loralab.importers.foreign import SPECIAL
from loralab.importers.section import NAME, OF_THE_RUN
from loralab.schema.catalogue import PARAMETERS, Option
from loralab.schema.coerce import Either, OneOf
from loralab.schema.settings import written
from loralab.schema.tree import get
from loralab.writing import atomic_path, unused

ASSETS = Path(__file__).resolve().parents[1] / "assets"

Tree = dict[str, Any]
Choices = dict[str, Any]
Say = Callable[[Tree, Choices], Any]


def save(tree: Tree, choices: Choices, folder: Path) -> Path:
    """Writes the complete settings of a composed configuration (plain values, and the choice made in each group).

    The file is named after the adapter; an existing file is not overwritten.
    """
    folder = folder.expanduser()
    path = unused(folder / f"{get(tree, 'output.name') or 'settings'}.json")
    with atomic_path(path, "settings.save_folder") as beside:
        beside.write_text(json.dumps(as_json(tree, choices), indent=4, ensure_ascii=False) + "\n", "utf8")
    return path


def as_json(tree: Tree, choices: Choices) -> Tree:
    """The old names with their values, and a section with everything else."""
    from loralab.importers.conversion import converted  # few runs need it

    old = {option.old: _said(option, tree, choices) for option in PARAMETERS}
    said = converted(Content(Path("settings.json"), "json", old)).settings
    chosen = {group: option for group, option in (several(tree) | choices).items() if option is not None}
    instead = [group for group, option in said.choices.items() if chosen.get(group) != option]
    for group in instead:
        said.without(group, rivals=False)
    every = {key: value for key, value in stored(tree) if not (_embedded(value) and key.split(".")[0] in instead)}
    instead += [key for key, value in said.values.items() if not _equal(every.get(key, ...), value)]
    return {**old, NAME: {"choices": chosen, "values": every, "instead": instead}}


def _embedded(value: Any) -> bool:
    """Whether it is the path of an embedded asset, which its option provides on every machine."""
    return isinstance(value, str) and Path(value).is_relative_to(ASSETS)


def _equal(a: Any, b: Any) -> bool:
    return a == b and type(a) is type(b)


def several(tree: Tree) -> Choices:
    """The choices in groups that may have several options, which Hydra does not record. Options are named like their
    nodes."""
    return {f"objective/{part}": list(get(tree, f"objective.{part}") or ()) for part in ("noise", "weighting")}


def stored(tree: Tree, prefix: str = "", inside_node: bool = False) -> Iterator[tuple[str, Any]]:
    """Every setting by its dotted key; a table that is one argument of a node is one value. Without Hydra's own keys
    and settings that are never saved."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if SPECIAL.fullmatch(name) or key in OF_THE_RUN:
            continue
        if isinstance(value, dict) and not (inside_node and value and not _builds(value)):
            yield from stored(value, f"{key}.", "_target_" in value)
        else:
            yield key, value


def _builds(value: Any) -> bool:
    """Whether a value contains a node to build."""
    if isinstance(value, dict):
        return "_target_" in value or any(map(_builds, value.values()))
    return isinstance(value, list) and any(map(_builds, value))


def _said(option: Option, tree: Tree, choices: Choices) -> Any:
    """The value of an old name. Settings about settings files are not saved."""
    if option.old in SAYS:
        return SAYS[option.old](tree, choices)
    key, is_choice, choice = option.key.partition("=")
    if key.startswith("settings."):
        return None
    if is_choice:
        chosen = choices[key] if key in choices else written(get(tree, key))
        return chosen if choice == "…" else chosen == choice
    value = get(tree, key)
    return option.kind.word(value) if isinstance(option.kind, (Either, OneOf)) else value


def _alpha(tree: Tree, choices: Choices) -> Any:
    alpha = get(tree, "adapter.alpha")
    return get(tree, "adapter.rank") if alpha is None else alpha


def _warmup(tree: Tree, choices: Choices) -> Any:
    return None if get(tree, "scheduler.warmup_steps") else get(tree, "scheduler.warmup_ratio")


SAYS: dict[str, Say] = {
    "save_json_only": lambda tree, choices: False,
    "sort_tag_occurrence_alphabetically": lambda tree, c: get(tree, "callbacks.tag_occurrence.sort") == "alphabetical",
    "cache_latents": lambda tree, choices: get(tree, "data.cache.latents") not in (None, "none"),
    "alpha": _alpha,
    "v2": lambda tree, choices: choices.get("model") in ("sd2", "sd2_v"),
    "v_parametrization": lambda tree, choices: get(tree, "model.prediction_type") == "v_prediction",
    "warmup_lr_ratio": _warmup,
    "num_epochs": lambda tree, choices: None if get(tree, "trainer.max_steps") else get(tree, "trainer.max_epochs"),
    "xformers": lambda tree, choices: get(tree, "model.attention") == "xformers",
}
"""Old name → its value, where that does not follow from its row of the catalogue."""
