"""What the keys of adapter files name, however they are spelled: a module, and one tensor of its adapter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from loralab.adapters.base import METHODS, Method
from loralab.adapters.peft import PREFIX
from loralab.models.target import Target

Table = Mapping[str, Sequence[Target]]
"""The modules that can be adapted, by part."""

COMFYUI = "diffusion_model."
"""How the denoiser's modules begin in ComfyUI's layout, which diffusion-pipe and ai-toolkit write, too."""

_ENDINGS = (
    (re.compile(r"\.lora_A(\.[^.]+)?\.weight$"), "lora_down.weight"),
    (re.compile(r"\.lora_B(\.[^.]+)?\.weight$"), "lora_up.weight"),
    (re.compile(r"\.lora_magnitude_vector(\.[^.]+){0,2}$"), "dora_scale"),
    (re.compile(r"\.(lora_(down|up)\.weight)$"), r"\1"),
    (re.compile(r"\.(lora|lora_linear_layer)\.down\.weight$"), "lora_down.weight"),
    (re.compile(r"\.(lora|lora_linear_layer)\.up\.weight$"), "lora_up.weight"),
    (re.compile(r"_lora\.down\.weight$"), "lora_down.weight"),
    (re.compile(r"_lora\.up\.weight$"), "lora_up.weight"),
    (re.compile(r"\.(alpha|rescale)$"), r"\1"),
    (re.compile(r"\.oft_R\.(scaled_oft)$"), r"oft_R.\1"),
    (re.compile(r"\.oft_R(\.[^.]+){0,2}$"), "oft_R.weight"),
)
"""How keys end that name their module by a path: PEFT (perhaps with the adapter's name in it), ComfyUI, diffusers of
old, and diffusers' first attention processors. Tensors of other kinds than LoRA's end as they are called."""

EMBEDDING = re.compile(r"(?:bundle_emb\.(?P<name>[^.]+)\..*|emb_params|clip_[lg]|string_to_param(\..*)?)$")
"""A learned word (textual inversion) that some trainers put into the adapter's file; it changes no module."""

_OF_OTHER_KINDS = (
    (re.compile(r"\.boft_"), "of PEFT's BOFT adapters"),
    (re.compile(r"\.oft_diag$"), "of an early form of OFT adapters"),
    (re.compile(r"\.diff(_b)?$"), "full weight differences (LyCORIS full)"),
    (re.compile(r"\.[wb]_norm$"), "of normalisation layers (LyCORIS norm)"),
    (re.compile(r"\.[ab][12]\.weight$"), "of GLoRA adapters"),
    (re.compile(r"\.ia3_l"), "of PEFT's IA3 adapters, which change biases too"),
    (re.compile(r"\.lora_E|\.ranknum"), "of AdaLoRA adapters"),
    (re.compile(r"\.vera_"), "of VeRA adapters"),
    (re.compile(r"\.lora_embedding_"), "of the LoRA of an embedding layer"),
    (re.compile(r"bias$"), "biases"),
    (re.compile(rf"^{re.escape(PREFIX)}(?!.*\.lora_).*\.weight$"), "weights of the base model itself"),
)
"""Patterns of keys that are not supported, and what they are."""

NO_MODULE = "match no module of this model"
NOT_SUPPORTED = ", which are not supported"
IN_ONE = "change queries, keys and values in one and cannot be divided into three"
AMBIGUOUS = "may belong to either text encoder of a model that has two"


def strangeness(key: str) -> str:
    """The fault of a key that cannot be read."""
    found = next((what for pattern, what in _OF_OTHER_KINDS if pattern.search(key)), None)
    return f"are {found}{NOT_SUPPORTED}" if found else NO_MODULE


def is_counter(key: str, numbers: int) -> bool:
    """Whether it is one number that belongs to no module, like a step count."""
    return numbers == 1 and "." not in key and not key.startswith("lora_")


def split(key: str) -> tuple[str, str]:
    """A key's module, as it is spelled, and its ending in the kohya layout; '' where it has none that is known."""
    if key.startswith("lora_"):
        name, _, ending = key.partition(".")
        return name, ending
    key = key.removeprefix(PREFIX)
    for pattern, ending in (*_ENDINGS, _ending_of_tensors(tuple(METHODS))):
        if match := pattern.search(key):
            path = key[: match.start()].replace(".processor.", ".")
            path = f"{path}.0" if path.endswith("to_out") else path
            return path, match.expand(ending)
    return key, ""


@cache
def _ending_of_tensors(kinds: tuple[type[Method], ...]) -> tuple[re.Pattern[str], str]:
    """Of all tensors that share their first word with one of these kinds: dora_…, hada_…, lokr_…"""
    words = {name.partition("_")[0] for kind in kinds for name in kind.required | kind.optional} - {"lora"}
    return re.compile(rf"\.((?:{'|'.join(sorted(words))})_\w+?)(\.[^.]+)?$"), r"\1"


def _of_transformers(target: Target) -> Iterator[str]:
    """Spellings that files of transformers have: ComfyUI's, OneTrainer's, SimpleTuner's, and the original code's."""
    if target.comfyui:
        flat = target.diffusers.replace(".", "_")
        yield from (f"{COMFYUI}{target.comfyui}", f"{COMFYUI}{target.diffusers}")
        yield from (f"lora_transformer_{flat}", f"lycoris_{flat}")
    if target.original and target.third is None:
        yield from (f"{COMFYUI}{target.original}", f"lora_unet_{target.original.replace('.', '_')}")


class Names:
    """The modules of a table by all their spellings. `part`: the one that bare paths are of, if it is known."""

    def __init__(self, table: Table, part: str | None) -> None:
        self._names: dict[str, str] = {}
        self._thirds: dict[str, dict[int, str]] = {}
        for of in sorted(table, key=lambda other: other != part):
            for target in table[of]:
                prefix = "_".join(target.kohya.split("_")[:2])
                flat = f"{prefix}_{target.diffusers.replace('.', '_')}"
                bare = target.diffusers.removeprefix("text_model.")
                spellings = (target.kohya, flat, f"{of}.{target.diffusers}", f"{of}.{bare}", target.diffusers, bare)
                for spelling in (*spellings, *_of_transformers(target)):
                    self._names.setdefault(spelling, target.kohya)
                if target.third is not None:
                    for spelling in (f"{COMFYUI}{target.original}", f"{prefix}_{target.original.replace('.', '_')}"):
                        self._thirds.setdefault(spelling, {})[target.third] = target.kohya
        self._two_encoders = part is None and "text_encoder_2" in table

    def of(self, path: str) -> str | None:
        """The module's name in the kohya layout."""
        return self._names.get(path)

    def thirds(self, path: str) -> list[str]:
        """The modules of queries, keys and values that a file has in one under this path; else none."""
        return [name for _, name in sorted(self._thirds.get(path, {}).items())]

    def ambiguous(self, path: str) -> bool:
        return self._two_encoders and path.startswith(("encoder.layers.", "text_model.encoder.layers."))
