"""The base model: its family, what it predicts, how it computes attention."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from loralab.errors import UserError
from loralab.importers.foreign import Foreign
from loralab.importers.rules.musubi import DIT
from loralab.importers.rules.ours import Ours
from loralab.models.registry import FAMILIES, USUAL, of_option

BASE = "pretrained_model_name_or_path"
EIGHT_BITS = ("fp8_base", "fp8_base_unet", "fp8_scaled")


def model(foreign: Foreign, ours: Ours) -> None:
    velocity, flow = foreign.take("v_parameterization"), foreign.take("flow_model")
    group, names = _group(foreign)
    if group == "sd2" and velocity:
        group, names = "sd2_v", (*names, "v_parameterization")
    if group is not None:
        ours.choose("model", group, *names)
    is_told = foreign.has(BASE) or foreign.has(DIT) or "model.base" in ours.given.values
    if not is_told and "model" not in ours.given.choices:
        stays = "the default model.base of that family is used" if group else "set model=… and model.base=…"
        foreign.warnings.append(f"names no base model: {stays}")
    if velocity:
        ours.set("model.prediction_type", "v_prediction", "v_parameterization")
    elif flow and not _always_flows(group):
        ours.choose("model", "sdxl_flow", "flow_model", *names)
        ours.set("model.prediction_type", "flow", "flow_model")
    _clip_skip(foreign, ours)
    _token_limit(foreign, ours)
    _attention(foreign, ours)
    if on := [name for name in EIGHT_BITS if foreign.take(name)]:
        ours.set("model.quantize", "fp8", *on)


def _group(foreign: Foreign) -> tuple[str | None, tuple[str, ...]]:
    """The option of the group model that the file asks for, and the options of the file that say so."""
    flags = {row.flag: row.options[0] for row in FAMILIES.values() if row.flag}
    first = "sdxl"
    if flag := next(filter(foreign.take, flags), ""):
        return flags[flag], (flag,)
    module = str(foreign.take("network_module") or "").rpartition("_")[2]
    if option := _option(module) or (_option(foreign.family) if _always_flows(_option(foreign.family)) else None):
        base = str(foreign.take(DIT)).lower()
        variants = (
            other for other in getattr(of_option(option), "options", ())[1:] if other.rpartition("_")[2] in base
        )
        return next(variants, option), ("network_module",)
    if foreign.has("cache_text_encoder_outputs") and foreign.take("cache_text_encoder_outputs"):
        return flags[first], ("cache_text_encoder_outputs",)  # only the scripts for this family have it
    base = foreign.take(BASE)
    if base is None:
        return _option(foreign.family), (first,)  # where the file gives its family
    return _by_keys(base) or USUAL.options[0], (BASE,)


def _always_flows(option: str | None) -> bool:
    row = of_option(option)
    return bool(row and row.predictions == ("flow",))


def _option(family: str) -> str | None:
    return FAMILIES[family].options[0] if family in FAMILIES else None


def _by_keys(base: str) -> str | None:
    """The family found in the base model itself, where it exists here: many files do not give it."""
    from loralab.models.probe import look_at_base

    path = Path(base)
    try:
        return _option(look_at_base(path, needs=()).family) if path.exists() else None
    except (UserError, OSError):
        return None  # the check of the configuration reports it


def _clip_skip(foreign: Foreign, ours: Ours) -> None:
    layers, row = foreign.take("clip_skip"), of_option(ours.chosen("model"))
    if row and _always_flows(ours.chosen("model")):
        foreign.leave("clip_skip", f"has no effect: {row.title} has no CLIP")
    elif row and row.encoder_layer:
        foreign.leave("clip_skip", f"has no effect: {row.title} always uses the second-to-last layers")
    elif layers is not None:
        ours.set("model.clip_skip", layers, "clip_skip")


def _token_limit(foreign: Foreign, ours: Ours) -> None:
    """Of Anima, the shorter of two: the limit of CLIP counts in chunks."""
    names = ("qwen3_max_token_length", "t5_max_token_length")
    limits = [limit for limit in map(foreign.take, names) if limit is not None]
    if limits and _always_flows(ours.chosen("model")):
        ours.set("model.max_token_length", min(limits), *names)


def _attention(foreign: Foreign, ours: Ours) -> None:
    mode = foreign.take("attn_mode")
    xformers = mode == "xformers" or (foreign.take("xformers") and mode is None)
    if mode in ("flash", "sageattn"):
        foreign.leave("attn_mode", "not supported: model.attention=auto uses torch's own")
    elif xformers and _runs_xformers():
        ours.set("model.attention", "xformers", "xformers", "attn_mode")
    elif xformers or mode is not None or foreign.take("sdpa"):
        ours.set("model.attention", "sdpa", "xformers", "sdpa", "attn_mode")
        if xformers and foreign.has("xformers"):
            foreign.warnings.append("asks for xformers, which is not available here: sdpa is used instead")


def _runs_xformers() -> bool:
    from loralab.gpus import has_accelerator

    return importlib.util.find_spec("xformers") is not None and has_accelerator()
