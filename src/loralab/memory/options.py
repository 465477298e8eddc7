"""What makes a run smaller, in the order of what costs the least time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

Settings = Mapping[str, Any]


class Choice(NamedTuple):
    """Settings that make a run smaller."""

    settings: dict[str, Any]
    """By key."""
    costs: str
    """In words."""

    def overrides(self) -> list[str]:
        words = {key: json.dumps(value) if isinstance(value, bool) else value for key, value in self.settings.items()}
        return [f"{key}={word}" for key, word in words.items()]


class Option(NamedTuple):
    """Choices of one kind, each smaller and slower than those before it."""

    name: str
    choices: list[Choice]


def options(settings: Settings, device: str, blocks: int, is_explicit: Callable[[str], bool]) -> list[Option]:
    """Those that a run has on "cpu" or "cuda". blocks: of its denoiser; what is_explicit stays as it is."""
    found = {
        "caches": _cache(settings["data"]),
        "attention": _attention(settings["model"], device),
        "blocks": _checkpointing(settings["model"], blocks),
        "dtype": _dtype(settings["model"]),
        "weights": [*_quantize(settings["model"]), *_offload(settings, device, blocks)],
        "batch": _parts(settings),
    }
    open_ones = {n: [c for c in choices if not any(map(is_explicit, c.settings))] for n, choices in found.items()}
    return [Option(name, choices) for name, choices in open_ones.items() if choices]


def _cache(data: Settings) -> Iterator[Choice]:
    latents, augment = data["cache"]["latents"], data["augment"]
    if latents == "memory":
        yield Choice({"data.cache.latents": "disk"}, "latents are read from the disk")
    elif latents == "none" and not (augment["color"] or augment["random_crop"]):
        yield Choice({"data.cache.latents": "disk"}, "no time: images are encoded once, before training")


def _attention(model: Settings, device: str) -> Iterator[Choice]:
    if model.get("attention") == "eager" or (model.get("attention") == "auto" and device == "cpu"):
        yield Choice({"model.attention": "sdpa"}, "slower in bf16 on a CPU, where the image is small")


def _checkpointing(model: Settings, blocks: int) -> Iterator[Choice]:
    """Of eighths of the blocks, then of all models. All takes a third more time."""
    if model.get("gradient_checkpointing") is False and blocks:
        counts = sorted({-(-blocks * eighth // 8) for eighth in range(1, 9)})
        for count in counts:
            costs = f"{count} of {blocks} blocks are computed again: about {round(33 * count / blocks)} % more time"
            yield Choice({"model.gradient_checkpointing": count}, costs)
        costs = "all blocks and the text encoders are computed again: about a third more time"
        yield Choice({"model.gradient_checkpointing": True}, costs)


def _dtype(model: Settings) -> Iterator[Choice]:
    if model.get("dtype") == "fp32":
        yield Choice({"model.dtype": "bf16"}, "the frozen weights are less precise")


def _quantize(model: Settings) -> Iterator[Choice]:
    """Of weights in bf16: those in fp32 are cast for each product, and kept so."""
    if "quantize" in model and model["quantize"] is None:
        dtype = {} if model.get("dtype") != "fp32" else {"model.dtype": "bf16"}
        costs = "frozen weights in 8 bits: less precise, slower"
        yield Choice({**dtype, "model.quantize": "int8"}, costs)
        if find_spec("bitsandbytes"):
            yield Choice({**dtype, "model.quantize": "nf4"}, costs.replace("8", "4"))


def _offload(settings: Settings, device: str, blocks: int) -> Iterator[Choice]:
    """Of one GPU's memory. Exact, but copying takes longer than unpacking: fewer than all blocks only where weights
    cannot be quantized."""
    model = settings["model"]
    if device != "cuda" or not blocks or model.get("offload") != 0 or model.get("quantize") == "nf4":
        return
    if settings["trainer"]["devices"] in (1, "1", "auto"):
        eighths = (8,) if any(_quantize(model)) else range(1, 9)
        for count in sorted({-(-blocks * eighth // 8) for eighth in eighths}):
            costs = f"the weights of {count} of {blocks} blocks are copied to the GPU twice in each step"
            yield Choice({"model.offload": count}, costs)


def _parts(settings: Settings) -> Iterator[Choice]:
    """Of each batch: the optimizer steps as before."""
    data, accumulate = settings["data"], settings["trainer"]["accumulate_grad_batches"]
    parts = 2
    while data["batch_parts"] == 1 and data["batch_pixels"] is None and parts <= data["batch_size"]:
        keys = {"data.batch_parts": parts, "trainer.accumulate_grad_batches": accumulate * parts}
        yield Choice(keys, f"each batch of {data['batch_size']} is trained in {parts} parts: slower on a GPU")
        parts *= 2
