"""Frozen weights in eight bits, packed (see packed), or in four by bitsandbytes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from loralab.errors import user_error
from loralab.models.frozen import Quantize
from loralab.models.packed import PackedConv2d, PackedLinear, can_be_packed, pack_layer, unpack


def quantize(model: nn.Module, kind: Quantize, dtype: torch.dtype) -> None:
    """Has the large weights of a model kept in fewer bits; products are computed in `dtype`.

    fp8, int8: packed. nf4: linear layers by bitsandbytes, convolutions packed as int8.
    """
    if kind == "nf4":
        quantize_linears(model, dtype)
    for layer in model.modules():
        if can_be_packed(layer):
            pack_layer(layer, "fp8" if kind == "fp8" else "int8", dtype)  # pyright: ignore[reportArgumentType]


def quantize_linears(model: nn.Module, dtype: torch.dtype) -> None:
    """Replaces the linear layers of a model by ones of nf4 (arXiv 2305.14314). Convolutions and norms stay as they are.

    Products are computed in `dtype`.
    """
    try:
        import bitsandbytes.nn.modules as bnb
    except ImportError as error:
        raise user_error("model.quantize", "bitsandbytes is not installed", "pip install bitsandbytes") from error

    def layer(linear: nn.Linear) -> Any:
        with torch.device("meta"):
            size = (linear.in_features, linear.out_features, linear.bias is not None)
            made = bnb.Linear4bit(*size, compute_dtype=dtype, quant_type="nf4")
        made.support_avx512bf16_for_cpu = False  # repacked in eval mode, it passes no gradient on
        made.weight = bnb.Params4bit(linear.weight.data, requires_grad=False, quant_type="nf4", module=made)  # pyright: ignore[reportCallIssue]
        made.bias = linear.bias
        return made.to(linear.weight.device)  # this is when it is quantised

    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, layer(child))


@torch.no_grad()
def dequantized(layer: Any) -> Tensor:
    """The weight of a layer that was quantised here, in its shape, in fp32."""
    if isinstance(layer, PackedLinear | PackedConv2d):
        return unpack(layer.weight, layer.scale, torch.float32)
    import bitsandbytes.functional as bnb

    return bnb.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
