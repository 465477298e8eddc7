"""What makes training fast and changes its result by rounding only."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning import Trainer

from loralab.models import onednn, onednn_attention
from loralab.models.families.sd.attention import MeasuredAttention
from loralab.models.memory_format import set_memory_format
from loralab.training.graphs import hindrance

if TYPE_CHECKING:
    from loralab.training.module import LoraModule


@dataclass(frozen=True)
class Speed:
    """The group `speed`."""

    fused: bool = True
    """The optimizer's step as one kernel, for those of torch that have one."""
    tf32: bool = True
    """Products in fp32 on a GPU with 10 bits of mantissa."""
    channels_last: bool = True
    """Convolutions on a GPU with the channels last in memory."""
    graphs: bool = True
    """The kernels of a step on a GPU started as one, as CUDA graphs."""
    compile: bool = False
    """torch.compile of the denoiser's blocks, where it pays."""

    def apply(self, module: LoraModule, trainer: Trainer) -> str:
        """Sets it for a run, before its optimizer is made; says in a line what is on."""
        return " · ".join(self._applied(module, trainer)) or "nothing beside torch's own choices"

    def _applied(self, module: LoraModule, trainer: Trainer) -> Iterator[str]:
        on_gpu = trainer.strategy.root_device.type == "cuda"
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = self.tf32
        if self.tf32 and on_gpu:
            yield "fp32 products in TF32"
        is_shared_out = module.run.settings["trainer"]["strategy"] == "fsdp"  # which takes weights as they are counted
        is_last = self.channels_last and on_gpu and not is_shared_out
        format = torch.channels_last if is_last else torch.contiguous_format
        set_memory_format(module.family.denoiser, format)
        if format is torch.channels_last:
            yield "channels last"
        kinds = set() if on_gpu else {type(layer) for layer in module.family.denoiser.modules()}
        if onednn.FrozenLinear in kinds:
            yield "products of frozen layers by oneDNN"
        elif onednn.FrozenConv2d in kinds:
            yield "convolutions of few pixels as products"
        is_fp32 = trainer.precision == "32-true" and next(module.family.denoiser.parameters()).dtype == torch.float32
        processors = getattr(module.family.denoiser, "attn_processors", {}).values()
        is_measured = any(isinstance(each, MeasuredAttention) for each in processors)
        if not on_gpu and is_fp32 and is_measured and onednn_attention.is_faster():
            yield "large attention by oneDNN"
        make = module.make_optimizer
        if self.fused and isinstance(make, partial) and _has_fused(make.func):
            module.make_optimizer = partial(make.func, *make.args, **make.keywords, fused=True)
            yield "the optimizer's step as one kernel"
        if self.graphs and on_gpu:
            off = hindrance(trainer.strategy.root_device, trainer.world_size, module.run.settings)
            yield f"no CUDA graphs, because of {off}" if off else "CUDA graphs"
        if self.compile:
            yield "the denoiser's blocks compiled, if it pays"


def _has_fused(optimizer: Callable[..., Any]) -> bool:
    return optimizer.__module__.startswith("torch.optim.") and "fused" in inspect.signature(optimizer).parameters
