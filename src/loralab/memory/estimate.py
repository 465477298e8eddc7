"""The memory that a run needs at its peak, by what takes it; nothing of its model is loaded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from loralab.callbacks.prompts import read
from loralab.callbacks.samples import OF_CAPTIONS
from loralab.callbacks.sampling import together
from loralab.data.epoch.planner import Planner
from loralab.memory.quantized import quantization_saves
from loralab.memory.weightless import Weightless
from loralab.models.offload import saved as offloaded
from loralab.models.probe import weights_size
from loralab.optim.build import build_optimizer
from loralab.training.graphs import hindrance
from loralab.types import Fit

Settings = Mapping[str, Any]

PROCESS = int(0.6 * 2**30)
"""Bytes of a process that trains on a CPU without its tensors: Python, torch, the other libraries and their caches.
Measured with the tiny model on Linux, torch 2.13 for CPUs; a torch for CUDA has up to 1 GB more."""


@dataclass(frozen=True)
class Estimate:
    """Bytes by name of what takes them, in each phase of a run."""

    phases: Mapping[str, Mapping[str, int]]

    @property
    def when(self) -> str:
        """The phase that takes the most."""
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def bytes(self) -> int:
        """At the peak."""
        return sum(self.phases[self.when].values())

    @property
    def gb(self) -> float:
        return self.bytes / 2**30

    @property
    def parts(self) -> dict[str, float]:
        """GB (2³⁰ bytes) of all that is there at the peak."""
        return {name: round(size / 2**30, 3) for name, size in self.phases[self.when].items() if size}


class Largest(NamedTuple):
    """The batch that takes the most, and what a cache of latents in memory holds."""

    side: tuple[int, int]
    """(width, height), pixels."""
    count: int
    latents: int
    """Numbers in the latents of all images, of which mean and standard deviation are cached in fp32."""


def estimate(settings: Settings, device: str) -> Estimate:
    """Of a run with these settings on "cpu" or "cuda"."""
    model = _weightless(_key(settings, device))
    largest = _largest(settings["data"], model)
    blocks = settings["model"].get("gradient_checkpointing", False)
    is_cached = settings["data"]["cache"]["latents"] != "none"
    frozen = {"process": PROCESS if device == "cpu" else 0, "frozen weights": model.weights}
    trained = {
        "adapter": model.adapter * (2 if settings["ema"]["decay"] else 1),
        "optimizer": _optimizer(json.dumps(settings["optimizer"]), _shapes(model.trained)),
        "cached latents": 8 * largest.latents if settings["data"]["cache"]["latents"] == "memory" else 0,
    }
    if device == "cuda" and settings["speed"]["graphs"] and not hindrance(torch.device(device), 1, settings):
        is_mixed = settings["trainer"]["precision"] != "32-true"  # of gradients, and of weights in half precision
        trained["CUDA graphs"] = model.adapter + (model.adapter // 2 if is_mixed else 0)
    held, comes = _held(settings, model, device)
    beside = {**frozen, "frozen weights": held, **trained}
    objective = settings["objective"]  # of a caption of its own, what the base knows is kept by a pass of its own
    passes = 2 if objective.get("preservation_weight") and objective["preservation_caption"] is not None else 1
    activations = _step(model, largest.side, largest.count, blocks, passes)
    encoded = {
        "the VAE on an image": _encoding(model, largest.side),
        "images": 12 * largest.count * _area(largest.side),
    }
    step = {**beside, "activations and gradients": activations}
    phases = {
        "encoding images": {**(frozen if is_cached else beside), "frozen weights": held + comes, **encoded},
        "a training step": step if is_cached else {**step, "images": encoded["images"]},
    }
    if device == "cpu":
        phases["loading the model"] = {**frozen, **_loading(settings["model"], model)}
    if pictures := _pictures(settings, model):
        phases["drawing pictures"] = {**beside, "pictures": comes + _drawing(model, *pictures)}
    return Estimate(phases)


def _held(settings: Settings, model: Weightless, device: str) -> tuple[int, int]:
    """Bytes of the frozen weights that are there throughout, and of the VAE where it comes for a time. Text encoders
    that come are not counted: the denoiser makes room for them."""
    kind, family, cache = settings["model"].get("quantize"), model.family, settings["data"]["cache"]
    resting = [family.vae] if device == "cuda" and cache["latents"] != "none" else []
    comes = sum(part.nbytes for vae in resting for part in vae.parameters())
    parts = [family.denoiser]
    if device == "cuda" and cache["text"] is True and kind != "nf4":
        resting += family.text_encoders.values()
    else:
        parts += family.text_encoders.values()
    saved = quantization_saves(parts, kind) if kind else 0
    saved += offloaded(family.denoiser, settings["model"].get("offload", 0)) if device == "cuda" else 0
    return model.weights - saved - sum(p.nbytes for part in resting for p in part.parameters()), comes


def blocks(settings: Settings, device: str) -> int:
    """Blocks of the denoiser that can be computed again."""
    return _weightless(_key(settings, device)).blocks


def _loading(settings: Settings, model: Weightless) -> dict[str, int]:
    """The weights that are there when the largest part is loaded, and its file, which is mapped while its tensors are
    converted; tensors of the dtype that is wanted are used where they are."""
    base = str(settings.get("base") or "")
    is_file, size = Path(base).expanduser().is_file(), weights_size(base)
    parameters = [p for part in model.family.parts().values() for p in part.parameters()]
    mapped = parameters if is_file else [*model.family.denoiser.parameters()]
    itemsize = 4 if size > 3 * sum(p.numel() for p in mapped) else 2
    is_used = {"fp32": 4, "fp16": 2}.get(str(settings.get("dtype"))) == itemsize
    held = model.weights if is_file else sum(p.nbytes for p in mapped)
    return {"frozen weights": held, "the file": 0 if is_used else size}


def _key(settings: Settings, device: str) -> str:
    """What the shapes depend on."""
    checkpointing = settings["model"].get("gradient_checkpointing") is True
    apart = ("gradient_checkpointing", "quantize", "offload")
    without = {k: v for k, v in settings["model"].items() if k not in apart}
    model = {**without, **({"gradient_checkpointing": True} if checkpointing else {})}
    nodes = {"model": model, "adapter": settings["adapter"], "targets": settings["targets"]}
    return json.dumps([{**nodes, "trainer": {"precision": settings["trainer"]["precision"]}}, device])


@cache
def _weightless(key: str) -> Weightless:
    return Weightless(*json.loads(key))


@cache
def _step(model: Weightless, side: tuple[int, int], count: int, blocks: bool | int, passes: int) -> int:
    return model.step(side, count, blocks, passes)


@cache
def _encoding(model: Weightless, side: tuple[int, int]) -> int:
    return model.encode(side)


@cache
def _drawing(model: Weightless, side: tuple[int, int], count: int) -> int:
    return model.pictures(side, count)


def _largest(data: Settings, model: Weightless) -> Largest:
    planner, parts = Planner.of_settings(data), data["batch_parts"]
    draws = planner.plan(planner.scan(), lambda text: Fit(1, 0)).draws
    counts = Counter(draws.groups[group] for group in draws.group_of)
    batches = [(group.bucket, -(-min(count, draws.batch(group.bucket)) // parts)) for group, count in counts.items()]
    side, count = max(batches, key=lambda batch: batch[1] * _area(batch[0]))
    sides = (draws.entry(row).bucket for row in range(draws.rows))
    numbers = sum(prod(model.family.latent_shape(height, width)) for width, height in sides)
    return Largest(side, count, numbers * (2 if data["augment"]["flip"] else 1))


def _area(side: tuple[int, int]) -> int:
    return side[0] * side[1]


def _pictures(settings: Settings, model: Weightless) -> tuple[tuple[int, int], int] | None:
    """(width, height) of the pictures that are drawn, and how many together; None where there are none."""
    node = settings["callbacks"].get("samples") or {}
    if not node.get("enabled"):
        return None
    given = read(node["prompts"])[0] if node["prompts"] else [{}] * OF_CAPTIONS
    native = model.family.resolution
    own = {name: node[name] or native for name in ("width", "height")}
    sides = Counter((p.get("width") or own["width"], p.get("height") or own["height"]) for p in given)
    return max(
        ((side, min(count * node["seeds"], together(*side))) for side, count in sides.items()),
        key=lambda drawn: drawn[1] * _area(drawn[0]),
    )


def _shapes(tensors: list[Tensor]) -> tuple[tuple[tuple[int, ...], int], ...]:
    return tuple(Counter(tuple(tensor.shape) for tensor in tensors).items())


@cache
def _optimizer(node: str, shapes: tuple[tuple[tuple[int, ...], int], ...]) -> int:
    """Bytes of the optimizer's state: of a tensor of each shape, after a step."""
    weights = [nn.Parameter(torch.zeros(shape)) for shape, _ in shapes]
    group = {"params": weights, "lr": 1e-4, "name": "adapter"}
    optimizer = build_optimizer(instantiate(json.loads(node), _convert_="all"), [group])
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    states = [[t for t in optimizer.state[weight].values() if isinstance(t, Tensor) and t.dim()] for weight in weights]
    held = [{id(tensor): tensor.nbytes for tensor in state} for state in states]
    return sum(count * sum(sizes.values()) for (_, count), sizes in zip(shapes, held, strict=True))
