"""Frozen weights shared out between the processes of a run: each keeps a part of every weight, and has those of a block
whole while the block is computed, in forward and again in backward (FSDP, arXiv 2304.11277; by torch's FSDP2).

Adapters are no part of it. They stand in for a layer's forward and read its weight there, where it is whole. Vectors,
which are small, stay whole: some are read outside the forward of their model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import nn

from loralab.models.checkpointing import blocks_of


class Shares(NamedTuple):
    """Bytes of the weights of the models that are shared out."""

    all: int
    own: int
    """Those that this process keeps."""


def share_out(denoiser: nn.Module, text_encoders: Iterable[nn.Module], device: torch.device) -> Shares:
    """Puts this process's part of the models' frozen weights on its device. All processes call it, once they are
    connected; from then on they must call the models together."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    models = [denoiser, *text_encoders]
    weights = sum(weight.nbytes for model in models for weight in model.parameters())
    group: Any = dist.new_group()  # gradients are exchanged in another meanwhile
    mesh = DeviceMesh.from_group(group, device.type)
    for model in models:
        vectors = {weight for weight in model.parameters() if weight.dim() < 2}
        for unit in units(model) if model is denoiser else units_and_layers(model):
            left = [weight for weight in unit.parameters() if weight.dim() > 1 and not isinstance(weight, DTensor)]
            for weight in left:
                weight.data = weight.data.contiguous()  # as FSDP wants it
            if left:
                fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=vectors)
    kept = [weight for model in models for weight in model.parameters()]
    return Shares(weights, sum((w.to_local() if isinstance(w, DTensor) else w).nbytes for w in kept))


def units(model: nn.Module) -> list[nn.Module]:
    """The modules whose weights are gathered together, but for those of others in this list, which come first: the
    repeated blocks, outside of them what else stands in a list, such as the layers between the levels of a UNet, and
    the model."""
    return _inner_first(model, {*_listed(model), model})


def units_and_layers(model: nn.Module) -> list[nn.Module]:
    """The same with each other layer in the place of the model, whose class FSDP changes: transformers looks up by it
    how states are taken."""
    listed = _listed(model)
    within = {inner for unit in listed for inner in unit.modules()}
    layers = {layer for layer in model.modules() if [*layer.parameters(recurse=False)]}
    return _inner_first(model, {*listed, *(layers - within)})


def _listed(model: nn.Module) -> set[nn.Module]:
    blocks = blocks_of(model)
    within = {inner for block in blocks for inner in block.modules()}
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return {*blocks, *({each for parent in lists for each in parent} - within)}


def _inner_first(model: nn.Module, wanted: set[nn.Module]) -> list[nn.Module]:
    return [module for module in reversed([*model.modules()]) if module in wanted]
