"""Layers of Anima that sd-scripts chooses by regular expressions on its names, as expressions on the names here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.importers.rules.transformer import family
from loralab.models.registry import FAMILIES

EXCLUDED = r".*(_modulation|_norm|_embedder|final_layer).*"
"""What sd-scripts leaves out unless it is asked for."""
INSIDE = re.compile(r"^(\w+)\.(\d+)\.(.+)$")
"""A layer inside a block: of which list, which one, and where."""
NAMES = ("exclude_patterns", "include_patterns", "network_reg_dims", "network_reg_lrs")


def named_layers(foreign: Foreign, ours: Ours) -> None:
    options = [f"network_args.{name}" for name in NAMES]
    if family(ours) != "anima" or not any(map(foreign.has, options)):
        return
    excluded, included = (foreign.take(name) or [] for name in options[:2])
    ranks, rates = (foreign.take(name) or {} for name in options[2:])
    patterns: list[dict[str, Any]] = []
    for part in ("transformer", *(["text_conditioner"] if ours.value("targets.text_conditioner") else [])):
        settings: dict[str, dict[str, Any]] = {}
        for target in FAMILIES["anima"].table[part]:
            name, usual = target.comfyui, target.kind in ("attention", "feed_forward")
            if part != "transformer" and not usual:
                continue  # sd-scripts adapts its blocks alone
            left_out = _any((EXCLUDED, *excluded), name) and not _any(included, name)
            rank = 0 if left_out else _first(ranks, name)
            told = {key: value for key, value in (("rank", rank), ("lr", _first(rates, name))) if value is not None}
            if told.get("rank") == 0:
                told = {"rank": 0} if usual else {}
            if told or (not usual and not left_out):
                settings[target.path] = told
        patterns += _patterns(part, settings)
    if patterns:
        ours.set("targets.patterns", patterns, *options)


def _any(expressions: Iterable[str], name: str) -> bool:
    return any(re.fullmatch(expression, name) for expression in expressions)


def _first(values: Mapping[str, float], name: str) -> float | None:
    return next((values[expression] for expression in values if re.fullmatch(expression, name)), None)


def _patterns(part: str, settings: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One entry for all layers with the same settings at the same places of the same blocks."""
    every = [found[2] for target in FAMILIES["anima"].table[part] if (found := INSIDE.match(target.path))]
    places: dict[tuple[str, str, str], list[str]] = {}
    for path, told in settings.items():
        found = INSIDE.match(path)
        listed, block, place = found.groups() if found else ("", "", path)
        places.setdefault((listed, place, repr(told)), []).append(block)
    groups: dict[tuple[str, str, str], list[str]] = {}
    for (listed, place, told), blocks in places.items():
        which = r"\d+" if set(blocks) == set(every) else "|".join(blocks)
        groups.setdefault((told, listed, which), []).append(re.escape(place))
    for (told, listed, which), inside in groups.items():
        start = rf"{listed}\.({which})\." if listed else ""
        same = next(given for given in settings.values() if repr(given) == told)
        yield {"match": rf"^{part}\.{start}({'|'.join(inside)})$", **same}
