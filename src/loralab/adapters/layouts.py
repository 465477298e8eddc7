"""What the keys of adapter files say: the kohya layout, which is the one used inside, those of diffusers and ComfyUI.

In the kohya layout a module's name is flat (`lora_unet_mid_block_attentions_0_proj_in`) and an `alpha` stands beside
its tensors. In diffusers' it is a path (`unet.mid_block.attentions.0.proj_in`), and there is no alpha: the scale is
folded into `lora_B`, which every reader gets right. What alpha was is kept in the metadata, for the way back.
ComfyUI reads the kohya layout of UNets; of transformers, the same by path (`diffusion_model.layers.0.attention.to_q`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from loralab.adapters.dora import MAGNITUDE
from loralab.adapters.keys import AMBIGUOUS, COMFYUI, EMBEDDING, IN_ONE, Names, Table, is_counter, split, strangeness
from loralab.adapters.kinds import Faults, Group, kind_of
from loralab.adapters.lora import unscaled
from loralab.adapters.peft import Configs, is_number, parsed
from loralab.errors import user_error
from loralab.models.registry import of_adapter

Layout = Literal["kohya", "diffusers", "comfyui"]
Alphas = Mapping[str, float | None]
"""By module, with '' for the usual one."""

FOLDED = "loralab.alphas"
"""Metadata of a file in diffusers' layout: the alphas that are in its weights."""


def to_diffusers(groups: Mapping[str, Group], table: Table) -> dict[str, Tensor]:
    """Adapters by module name in diffusers' layout, to be loaded by its `load_lora_weights`.

    Raises a UserError for kinds of adapters that diffusers cannot load.
    """
    paths = {target.kohya: f"{part}.{target.diffusers}" for part in table for target in table[part]}
    out: dict[str, Tensor] = {}
    for name, group in groups.items():
        if not group.kind.in_diffusers:
            found = f"the diffusers layout does not support {group.kind.__name__} ({name})"
            raise user_error("output.layout", found, "set output.layout=kohya or adapter=lora")
        form = group.kind.peft_form(name, group.tensors, group.scale)
        out |= {f"{paths[name]}.{ending}": tensor for ending, tensor in form.items()}
    return out


def to_comfyui(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """A state of the kohya layout in ComfyUI's."""
    paths = {t.kohya: f"{COMFYUI}{t.comfyui}" for part in table for t in table[part] if t.comfyui}
    named = ((key.partition("."), tensor) for key, tensor in state.items())
    return {f"{paths.get(name, name)}.{ending}": tensor for (name, _, ending), tensor in named}


def folded_alphas(state: Mapping[str, Tensor]) -> dict[str, str]:
    """What to_diffusers leaves out of a state of the kohya layout, as metadata: the usual alpha, and others by name."""
    alphas = {name: state.get(f"{name}.alpha") for name in dict.fromkeys(key.partition(".")[0] for key in state)}
    told = {name: None if alpha is None else float(alpha) for name, alpha in alphas.items()}
    usual = max(told.values(), key=list(told.values()).count)
    return {FOLDED: json.dumps({"": usual, **{name: alpha for name, alpha in told.items() if alpha != usual}})}


@dataclass(frozen=True, slots=True)
class Sorted:
    """The tensors of a file, told apart."""

    state: dict[str, Tensor]
    """Those of adapters, in the kohya layout with the model's names, alphas included where they are known."""
    beside: dict[str, list[str]]
    """What is in the file and changes no module, so that it can be ignored → its keys."""
    faults: Faults
    """Keys that can only be parts of an adapter that cannot be read."""


def to_kohya(
    tensors: Mapping[str, Tensor], configs: Configs, table: Table | None = None, folded: Alphas | None = None
) -> Sorted:
    """Tensors of any layout in the kohya layout.

    `configs`: PEFT's, which tell the strength. `table`: the model's modules; without it, those of the public
    architecture that the keys look like. `folded`: the alphas that are in the weights of diffusers' layout.
    """
    part = configs[""].part if "" in configs else None
    names = Names(of_adapter(tensors, part).table if table is None else table, part)
    modules: dict[str, dict[str, Tensor]] = {}
    paths: dict[str, str] = {}
    beside: dict[str, list[str]] = {}
    faults: Faults = {}
    for key, tensor in tensors.items():
        path, ending = split(key)
        name = names.of(path)
        if thirds := names.thirds(path):
            if found := _thirds(ending, tensor):
                for name, third in zip(thirds, found, strict=True):
                    paths[name] = path
                    modules.setdefault(name, {})[ending] = third
            else:
                faults.setdefault(IN_ONE, []).append(key)
            continue
        if word := EMBEDDING.match(key):
            beside.setdefault(f"the embedding {word['name'] or key}", []).append(key)
        elif is_counter(key, tensor.numel()):
            beside.setdefault("training counters", []).append(key)
        elif names.ambiguous(path):
            faults.setdefault(AMBIGUOUS, []).append(key)
        elif name is None or ending in modules.get(name, {}):
            faults.setdefault(strangeness(key) if name is None else "define a tensor twice", []).append(key)
        else:
            paths[name] = path
            modules.setdefault(name, {})[ending] = _kohya_form(key, tensor)
    for name, path in paths.items():
        if modules[name].keys() == {"alpha"}:
            beside.setdefault("alphas without an adapter", []).append(f"{name}.alpha")
            del modules[name]
        elif not (fault := _with_alpha(modules[name], path, configs)):
            _unfold(modules[name], name, folded or {})
        else:
            faults.setdefault(fault, []).extend(f"{name}.{ending}" for ending in modules.pop(name))
    state = {f"{name}.{ending}": tensor for name, of in modules.items() for ending, tensor in of.items()}
    return Sorted(state, beside, faults)


def _thirds(ending: str, tensor: Tensor) -> list[Tensor]:
    """A tensor of an adapter of queries, keys and values in one, for each of them; none where it cannot be divided."""
    if ending in ("alpha", "lora_down.weight", "hada_w1_b", "hada_w2_b"):
        return [tensor] * 3
    by_outputs = ending in ("lora_up.weight", "dora_scale", "hada_w1_a", "hada_w2_a") and len(tensor) % 3 == 0
    return [third.contiguous() for third in tensor.chunk(3)] if by_outputs else []


def _kohya_form(key: str, tensor: Tensor) -> Tensor:
    """PEFT's magnitudes are flat, or (1, out, 1, 1) for a convolution."""
    return tensor.reshape(-1, *(1,) * max(tensor.dim() - 1, 1)) if "lora_magnitude_vector" in key else tensor


def _with_alpha(tensors: dict[str, Tensor], path: str, configs: Configs) -> str | None:
    """Adds the alpha that PEFT's configuration gives a module, as far as the file has none; or what is wrong."""
    part, _, inside = path.partition(".")
    config, inside = (configs[part], inside) if part in configs else (configs.get(""), path)
    if config is None or "alpha" in tensors:
        return None
    if config.dora != (MAGNITUDE in tensors):
        return f"contradict use_dora={str(config.dora).lower()} of {config.where}"
    named = {ending.removesuffix(".weight"): tensor for ending, tensor in tensors.items()}
    kind = kind_of(named)
    if kind is None or not all(tensor.dim() for tensor in named.values()):
        return None  # which is reported where kinds are
    if rank := kind.rank_of(named):
        like = next(tensor for name, tensor in named.items() if name not in kind.starts_at_zero)
        tensors["alpha"] = _alpha_like(config.alpha(inside, rank), like)
    elif "lokr_w1" in tensors:  # of full rank: PEFT scales it all the same
        rank = config.rank(inside)
        tensors["lokr_w1"] = tensors["lokr_w1"].float() * (config.alpha(inside, rank) / rank)
    return None


def folded_into(metadata: Mapping[str, str]) -> Alphas:
    """The alphas that `folded_alphas` wrote into the metadata; a ValueError where they are damaged."""
    alphas = parsed(metadata.get(FOLDED, "{}"), f"the metadata {FOLDED}")
    if not all(alpha is None or is_number(alpha) for alpha in alphas.values()):
        raise ValueError(f"the metadata {FOLDED} is damaged")
    return alphas


def _unfold(tensors: dict[str, Tensor], name: str, alphas: Alphas) -> None:
    """Takes the scale out of `lora_up` again, where the metadata says which one was folded into it."""
    down, up = tensors.get("lora_down.weight"), tensors.get("lora_up.weight")
    alpha = alphas.get(name, alphas.get(""))
    if alpha and down is not None and up is not None and down.dim() and "alpha" not in tensors:
        tensors["alpha"] = _alpha_like(alpha, down)
        tensors["lora_up.weight"] = unscaled(up, alpha / len(down), down)


def _alpha_like(alpha: float, tensor: Tensor) -> Tensor:
    """In the precision of `tensor` where it has this number, else in fp32."""
    exact = torch.tensor(float(alpha))
    return exact.to(tensor.dtype) if exact.to(tensor.dtype) == exact else exact


def layout_of(keys: Iterable[str]) -> Layout:
    """Which layout keys are written in."""
    keys = list(keys)
    if any(key.startswith(COMFYUI) for key in keys):
        return "comfyui"
    return "kohya" if any(key.startswith("lora_") for key in keys) else "diffusers"
