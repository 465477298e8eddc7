"""What the keys of adapter files say: the kohya layout, which is the one used inside, and that of diffusers and PEFT.

In the kohya layout a module's name is flat (`lora_unet_mid_block_attentions_0_proj_in`) and an `alpha` stands beside
its tensors. In diffusers' it is a path (`unet.mid_block.attentions.0.proj_in`), and there is no alpha: the scale is
folded into `lora_B`, which every reader gets right. What alpha was is kept in the metadata, for the way back.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from loralab.adapters.base import magnitude_form
from loralab.adapters.dora import DoRA
from loralab.adapters.kinds import Group, grouped, some
from loralab.adapters.lora import LoRA
from loralab.errors import user_error
from loralab.models.architecture import SD1, SDXL
from loralab.models.names import Target, text_targets, unet_targets

Layout = Literal["kohya", "diffusers"]
Table = Mapping[str, Sequence[Target]]
"""The modules that can be adapted, by part."""

FOLDED = "loralab.alphas"
"""Metadata of a file in diffusers' layout: the alphas that are in its weights."""

_ENDINGS = (
    (re.compile(r"\.lora_A(\.\w+)?\.weight$"), "lora_down.weight"),
    (re.compile(r"\.lora_B(\.\w+)?\.weight$"), "lora_up.weight"),
    (re.compile(r"\.lora_magnitude_vector(\.\w+)?(\.weight)?$"), "dora_scale"),
    (re.compile(r"\.(lora|lora_linear_layer)\.down\.weight$"), "lora_down.weight"),
    (re.compile(r"\.(lora|lora_linear_layer)\.up\.weight$"), "lora_up.weight"),
    (re.compile(r"_lora\.down\.weight$"), "lora_down.weight"),
    (re.compile(r"_lora\.up\.weight$"), "lora_up.weight"),
    (re.compile(r"\.(alpha|dora_scale|(?:hada|lokr)_\w+)$"), r"\1"),
)
"""How keys end that name their module by a path: PEFT, diffusers of old, and diffusers' first attention processors."""


def to_diffusers(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """A state of the kohya layout in diffusers', to be loaded by its `load_lora_weights`.

    Raises a UserError for kinds of adapters that diffusers cannot load.
    """
    paths = {target.kohya: f"{part}.{target.diffusers}" for part in table for target in table[part]}
    out: dict[str, Tensor] = {}
    for name, group in grouped(state).items():
        if group.kind not in (LoRA, DoRA):
            found = f"diffusers has no {group.kind.__name__} ({name})"
            raise user_error("output.layout", found, "output.layout=kohya, or adapter=lora")
        path, up = paths[name], group.tensors["lora_up"]
        out[f"{path}.lora_A.weight"] = _down(group.tensors)
        out[f"{path}.lora_B.weight"] = _scaled(up, group.scale)
        if "dora_scale" in group.tensors:
            out[f"{path}.lora_magnitude_vector.weight"] = _magnitude(name, group)
    return out


def folded_alphas(state: Mapping[str, Tensor]) -> dict[str, str]:
    """What to_diffusers leaves out of a state of the kohya layout, as metadata: the usual alpha, and others by name."""
    alphas = {name: state.get(f"{name}.alpha") for name in grouped(state)}
    told = {name: None if alpha is None else float(alpha) for name, alpha in alphas.items()}
    usual = max(told.values(), key=list(told.values()).count)
    return {FOLDED: json.dumps({"": usual, **{name: alpha for name, alpha in told.items() if alpha != usual}})}


def _scaled(up: Tensor, scale: float) -> Tensor:
    """In the precision of `up` where nothing is lost by that, else in fp32."""
    wide = up.float() * scale
    narrow = wide.to(up.dtype)
    return narrow if torch.equal(_unscaled(narrow, scale, up), up) else wide


def _unscaled(scaled: Tensor, scale: float, like: Tensor) -> Tensor:
    return (scaled.float() / scale).to(like.dtype)


def _down(tensors: Mapping[str, Tensor]) -> Tensor:
    """`lora_down` with the core of a Tucker form multiplied into it, which diffusers has not."""
    down, mid = tensors["lora_down"], tensors.get("lora_mid")
    return down if mid is None else LoRA.delta({"lora_down": down, "lora_up": torch.eye(len(mid)), "lora_mid": mid})


def _magnitude(name: str, group: Group) -> Tensor:
    """(out) of a linear layer, (1, out, 1, 1) of a convolution."""
    magnitude, out = group.tensors["dora_scale"], group.shape[0]
    if magnitude_form(magnitude, group.shape).shape[0] == 1 != out:
        found = f"diffusers takes a magnitude for each output, {name} has one for each input"
        raise user_error("output.layout", found, "output.layout=kohya, or adapter.magnitude=output")
    return magnitude.reshape(1, -1, 1, 1) if len(group.shape) == 4 else magnitude.flatten()


def to_kohya(
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    table: Table | None = None,
    setting: str = "adapter.weights",
) -> dict[str, Tensor]:
    """A state of any layout in the kohya layout with this model's names, alphas included where they are told.

    Without a table, that of the public architectures which the keys look like. Raises a UserError that lists the keys
    whose module is not known.
    """
    names = _names(table or public_table(state))
    alphas = _Alphas(_told(metadata, "lora_adapter_metadata", setting))
    out: dict[str, Tensor] = {}
    strange = []
    for key, tensor in state.items():
        path, ending = _split(key)
        name = names.get(path)
        if name is None or f"{name}.{ending}" in out:
            strange.append(key)
            continue
        if ending == "dora_scale" and "lora_magnitude_vector" in key:
            tensor = tensor.reshape(-1, *(1,) * max(tensor.dim() - 1, 1))
        out[f"{name}.{ending}"] = tensor
        if ending == "lora_down.weight" and (alpha := alphas.of(path, tensor.shape[0])) is not None:
            out.setdefault(f"{name}.alpha", _alpha_like(alpha, tensor))
    if strange:
        found = f"{len(strange)} of {len(state)} keys are of no module of this model: {some(strange)}"
        raise user_error(setting, found, "the file belongs to another base model, or to no Stable Diffusion at all")
    return _unfolded(out, _told(metadata, FOLDED, setting))


def _told(metadata: Mapping[str, str], key: str, setting: str) -> dict[str, Any]:
    """A dict that stands in the metadata as JSON; empty where it does not."""
    try:
        told = json.loads(metadata.get(key, "{}"))
    except ValueError:
        told = None
    if not isinstance(told, dict):
        raise user_error(setting, f"its metadata {key} is damaged", "get the file again")
    return told


def _unfolded(state: dict[str, Tensor], alphas: Mapping[str, float | None]) -> dict[str, Tensor]:
    """A state with the scale taken out of `lora_up` again, where it is told which was folded into it."""
    for name in {key.partition(".")[0] for key in state} if alphas else ():
        down, up = state.get(f"{name}.lora_down.weight"), state.get(f"{name}.lora_up.weight")
        alpha = alphas.get(name, alphas.get(""))
        if alpha and down is not None and up is not None and f"{name}.alpha" not in state:
            state[f"{name}.alpha"] = _alpha_like(alpha, down)
            state[f"{name}.lora_up.weight"] = _unscaled(up, alpha / len(down), down)
    return state


def _alpha_like(alpha: float, tensor: Tensor) -> Tensor:
    """In the precision of `tensor` where it has this number, else in fp32."""
    exact = torch.tensor(float(alpha))
    return exact.to(tensor.dtype) if exact.to(tensor.dtype) == exact else exact


def layout_of(keys: Iterable[str]) -> Layout:
    """Which of the two layouts keys are written in."""
    return "kohya" if all(key.startswith("lora_") for key in keys) else "diffusers"


def public_table(state: Iterable[str]) -> Table:
    """The modules of SDXL or of SD 1.x and 2.x, whichever the keys look like."""
    marks = ("lora_te1_", "lora_te2_", "text_encoder_2.", "lora_unet_input_", "lora_unet_output_", "lora_unet_middle_")
    deep = re.compile(r"transformer_blocks[._][1-9]")  # SD 1.x and 2.x have one block in a transformer
    return _sdxl_table() if any(k.startswith(marks) or deep.search(k) for k in state) else _sd_table()


@cache
def _sd_table() -> Table:
    """Of SD 1.x and 2.x in one, and of smaller ones: the names say nothing about widths."""
    return {"text_encoder": text_targets(24, "lora_te", True), "unet": unet_targets(_every_level(SD1.unet), False)}


@cache
def _sdxl_table() -> Table:
    layers = {part: config["num_hidden_layers"] for part, config in SDXL.text_encoders.items()}
    return {
        "text_encoder": text_targets(layers["text_encoder"], "lora_te1", True),
        "text_encoder_2": text_targets(layers["text_encoder_2"], "lora_te2", True),
        "unet": unet_targets(SDXL.unet, True),
    }


def _every_level(unet: Mapping[str, Any]) -> dict[str, Any]:
    """The same UNet with transformers on every level, which smaller ones may have."""
    levels = len(unet["block_out_channels"])
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",) * levels, "up_block_types": ("CrossAttnUpBlock2D",) * levels}
    return {**unet, **kinds}


def _names(table: Table) -> dict[str, str]:
    """All spellings of a module → its kohya name."""
    names: dict[str, str] = {}
    for part in table:
        for target in table[part]:
            prefix = target.kohya.partition("_text_model_")[0] if part != "unet" else "lora_unet"
            flat = f"{prefix}_{target.diffusers.replace('.', '_')}"
            bare = target.diffusers.removeprefix("text_model.")
            spellings = (target.kohya, flat, f"{part}.{target.diffusers}", f"{part}.{bare}", target.diffusers, bare)
            for spelling in spellings:
                names.setdefault(spelling, target.kohya)
    return names


def _split(key: str) -> tuple[str, str]:
    """A key's module, as it is spelled, and its ending in the kohya layout."""
    if key.startswith("lora_") and not key.startswith("lora_A"):
        name, _, ending = key.partition(".")
        return name, ending
    key = key.removeprefix("base_model.model.")
    for pattern, ending in _ENDINGS:
        if match := pattern.search(key):
            path = key[: match.start()].replace(".processor.", ".")
            path = f"{path}.0" if path.endswith("to_out") else path
            return path, match.expand(ending)
    return key, ""


class _Alphas:
    """Alphas that stand in a file's metadata, as diffusers and PEFT write them."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.parts: dict[str, dict[str, Any]] = {}
        for key, value in told.items():
            part, _, name = key.partition(".")
            self.parts.setdefault(part, {})[name] = value

    def of(self, path: str, rank: int) -> float | None:
        """The alpha of a module `part.path` as kohya files hold it; None where nothing is told."""
        part, _, path = path.partition(".")
        config = self.parts.get(part)
        if not config or config.get("lora_alpha") is None:
            return None
        alpha = config["lora_alpha"]
        for pattern, value in (config.get("alpha_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", path):
                alpha = value
                break
        return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha
