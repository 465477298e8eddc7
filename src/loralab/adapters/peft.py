"""What PEFT's configuration says about its tensors: above all, their strength.

PEFT writes it beside its weights (`adapter_config.json`), diffusers into a file's header. Its keys are those of
peft's LoraConfig, LoHaConfig and LoKrConfig (0.21).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loralab.models.registry import FAMILIES

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
"""What PEFT puts before the keys of a model that it has wrapped."""
IN_HEADER = "lora_adapter_metadata"
"""Where diffusers keeps the configuration: its keys plain, or with the part in front (`unet.lora_alpha`)."""

PLAIN_KEYS = ("lora_alpha", "alpha_pattern", "use_rslora")
"""What other trainers write into the header as it is."""

KINDS = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha", "OFT": "alpha"}
"""The kinds of adapters that can be read, and what their alpha is called; it is 8 where it is not given. OFT
has none."""
PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "lycoris")
"""Ways to initialise that leave the base model as it is."""
CHANGED_BASE = "save it from PEFT with path_initial_model_for_weight_conversion, which converts it to a plain LoRA"
PLAIN = "train and save it in PEFT without that option"

TERMS = "num_cayley_neumann_terms"

WITHOUT_EFFECT = frozenset(
    (
        *("alpha", "alpha_pattern", "auto_mapping", "corda_config", "decompose_both", "ensure_weight_tying"),
        *(
            "block_share",
            "coft",
            "eva_config",
            "exclude_modules",
            "fan_in_fan_out",
            "inference_mode",
            "init_lora_weights",
            "init_weights",
        ),
        *("layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_ga_config", "megatron_config"),
        *("peft_type", "rank_dropout_scale", "rank_pattern", "runtime_config", "target_modules", "use_dora"),
        *("use_cayley_neumann", "use_effective_conv2d", "use_rslora", "velora_config"),
    )
)
"""Keys that are used here, or that do not affect the saved tensors."""


@dataclass(frozen=True, slots=True)
class Config:
    """The configuration of the adapters of a file, or of one part of it."""

    values: Mapping[str, Any]
    where: str
    """What a message calls it."""

    @property
    def part(self) -> str | None:
        """The part of a base model whose modules the keys name; None where it is not said."""
        mapping = self.values.get("auto_mapping")
        parts = (part for row in FAMILIES.values() for part in row.parts.items())
        wrapped = isinstance(mapping, dict) and mapping.get("base_model_class")
        return next((name for name, part in parts if part.module.rpartition(".")[2] == wrapped), None)

    @property
    def dora(self) -> bool:
        return bool(self.values.get("use_dora"))

    def alpha(self, path: str, rank: int) -> float:
        """Of a module, as files of the kohya layout have it: to be divided by the rank."""
        alpha = float(self._of_module("alpha_pattern", path, self.values.get(self._alpha_key, 8)))
        return alpha * math.sqrt(rank) if self.values.get("use_rslora") else alpha

    def rank(self, path: str) -> int:
        return int(self._of_module("rank_pattern", path, self.values.get("r", 8)))

    def problems(self) -> Iterator[tuple[str, str]]:
        """(what was found, remedy) for all that can't be represented, so that nothing is read at the wrong strength."""
        kind = self._kind
        if kind not in KINDS:
            yield f"peft_type={kind} is not supported", f"valid: {', '.join(KINDS)}"
            return
        start = self.values.get("init_lora_weights", self.values.get("init_weights"))
        if start not in PLAIN_STARTS:
            yield (
                f"init_lora_weights={start}: this changed the base model, which the adapter does not contain",
                CHANGED_BASE,
            )
        if kind == "OFT" and (not self.values.get("use_cayley_neumann") or self.values.get(TERMS, 5) != 5):
            yield f"use_cayley_neumann=false, or {TERMS} other than 5, is not supported", PLAIN
        for key, value in self.values.items():
            if (key == "bias" and value != "none") or (key not in WITHOUT_EFFECT and _switched_on(value)):
                yield f"{key}={json.dumps(value)[:80]} is not supported", PLAIN
        yield from (
            (f"{key}={self.values[key]!r:.80} is invalid", "download or copy the file again") for key in self._invalid()
        )

    @property
    def _kind(self) -> str:
        return str(self.values.get("peft_type") or "LORA").rpartition(".")[2].upper()

    @property
    def _alpha_key(self) -> str:
        return KINDS[self._kind]

    def _invalid(self) -> Iterator[str]:
        for key in (self._alpha_key, "r") if self._kind != "OFT" else ():
            if not is_number(self.values.get(key, 8), above=0 if key == "r" else -1e15):
                yield key
        for key, low in (("alpha_pattern", -1e15), ("rank_pattern", 0)):
            patterns = self.values.get(key) or {}
            valid = isinstance(patterns, dict) and all(is_number(value, low) for value in patterns.values())
            if not valid or not all(map(_compiles, patterns)):
                yield key

    def _of_module(self, key: str, path: str, usual: float) -> float:
        """As PEFT looks it up: the first pattern that ends the path counts."""
        for pattern, value in (self.values.get(key) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", path):
                return value
        return usual


Configs = dict[str, Config]
"""By part; '' for all that no other is for."""


def configs_of(path: Path, keys: Iterable[str], metadata: Mapping[str, str]) -> Configs:
    """The configurations that belong to a file's tensors: beside it for what PEFT saved, else in its header.

    Raises a ValueError that says which of them is damaged.
    """
    beside = path.with_name(CONFIG)
    by_peft = path.stem == "adapter_model" or any(key.startswith(PREFIX) for key in keys)
    if by_peft and beside.is_file():
        return {"": Config(parsed(beside.read_bytes(), str(beside)), str(beside))}
    if IN_HEADER in metadata:
        return _by_part(parsed(metadata[IN_HEADER], f"the metadata {IN_HEADER}"))
    plain = {key: _value(metadata[key]) for key in PLAIN_KEYS if key in metadata}
    return {"": Config(plain, "the metadata")} if "lora_alpha" in plain else {}


def _by_part(values: Mapping[str, Any]) -> Configs:
    parts: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        part, _, name = key.rpartition(".")
        parts.setdefault(part, {})[name] = value
    return {part: Config(told, f"the metadata {IN_HEADER}") for part, told in parts.items()}


def parsed(text: str | bytes, where: str) -> dict[str, Any]:
    """A JSON object; a ValueError that names `where` for anything else."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"{where} is damaged")
    return values


def _value(text: str) -> Any:
    """A value of the header, where all of them are texts."""
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except (ValueError, RecursionError):
        return text


def _switched_on(value: Any) -> bool:
    """Numbers and texts only refine what something else switches on."""
    return value is True or (isinstance(value, dict | list) and bool(value))


def is_number(value: Any, above: float = -1e15) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and above < value < 1e15


def _compiles(pattern: str) -> bool:
    try:
        return bool(re.compile(pattern))
    except re.error:
        return False
