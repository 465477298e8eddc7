"""Which attention implementation a UNet and its text encoders use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loralab.errors import user_error
from loralab.models import onednn_attention
from loralab.models.load import Base

Attention = Literal["auto", "sdpa", "xformers", "eager"]


SMALL = 2**19
"""Scores (queries × keys) of a head up to which computing them one by one is faster in bf16 on a CPU."""


class MeasuredAttention:
    """A diffusers attention processor that uses the implementation that measured faster.

    That is torch's scaled_dot_product_attention, but on a CPU: in fp32 ours by oneDNN, which benchmarks/levers.py
    measures; in bf16, where attentions are small, eager, as sdpa's backward is slow: of SD 1.5 at 256 px and one
    thread, forward and backward in ms, eager against sdpa: 17 to 24 (256 queries, 256 keys), 13 to 20 (1024, 77), 88
    to 82 (1024, 1024).
    """

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        self.eager, self.sdpa = AttnProcessor(), AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        keys = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attention_mask is None and _is_of_transformer(attn):
            if is_on_cpu(hidden_states, torch.float32):
                return _attended(attn, hidden_states, keys, onednn_attention.attention)
            if hidden_states.device.type == "cuda":
                return _attended(attn, hidden_states, keys, F.scaled_dot_product_attention)
        small = hidden_states.shape[1] * keys.shape[1] <= SMALL
        chosen = self.eager if small and is_on_cpu(hidden_states, torch.bfloat16) else self.sdpa
        return chosen(attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs)


def _attended(attn: Any, hidden: Tensor, keys: Tensor, attention: Callable[..., Tensor]) -> Tensor:
    """What AttnProcessor2_0 computes of hidden (B, N, D) and keys (B, M, D'), by this attention: (B, N, D)."""
    if keys is hidden:
        projected = together(hidden, attn.to_q, attn.to_k, attn.to_v)
    else:
        projected = attn.to_q(hidden), *together(keys, attn.to_k, attn.to_v)
    heads = (each.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for each in projected)  # (B, H, …, D/H)
    dense, dropout = attn.to_out
    return dropout(dense(attention(*heads).transpose(1, 2).flatten(2)))


def together(x: Tensor, first: nn.Module, *others: nn.Module) -> tuple[Tensor, ...]:
    """The outputs of layers of one input: what stands in for their forward may compute them together."""
    owner, *owners = (getattr(layer.forward, "__self__", None) for layer in (first, *others))
    join = getattr(owner, "together", None)
    outputs = join(x, owners) if join else None
    return (first(x), *(layer(x) for layer in others)) if outputs is None else outputs


def _is_of_transformer(attn: Any) -> bool:
    """Whether it is queries, keys, values and output alone."""
    others = (attn.group_norm, attn.spatial_norm, attn.norm_q, attn.norm_k, attn.norm_cross, attn.residual_connection)
    return not any(others) and attn.rescale_output_factor == 1


def is_on_cpu(x: Tensor, dtype: torch.dtype) -> bool:
    """Whether it is computed with in this precision on a CPU."""
    device = x.device.type
    used = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return device == "cpu" and used == dtype


def set_attention(base: Base, attention: Attention) -> None:
    """Chooses the attention of a UNet2DConditionModel and of CLIP text models.

    Text encoders have no xformers and take sdpa then. Over their 77 tokens, eager is as fast as sdpa in fp32 on a CPU
    and faster in bf16 (42 ms to 60, two layers of SD 1.5's).
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    if attention == "xformers":
        _set_xformers(base.denoiser)
    else:
        processor = {"auto": MeasuredAttention, "sdpa": AttnProcessor2_0, "eager": AttnProcessor}[attention]()
        base.denoiser.set_attn_processor(processor)
    eager = attention == "eager" or (attention == "auto" and not torch.cuda.is_available())
    for encoder in base.text_encoders.values():
        encoder.set_attn_implementation("eager" if eager else "sdpa")


def _set_xformers(unet: Any) -> None:
    remedy = "set model.attention=auto, or install a build of xformers for this torch: pip install loralab[xformers]"
    if not torch.cuda.is_available():
        raise user_error("model.attention", "xformers needs a CUDA device, but none was found", remedy)
    try:
        unet.enable_xformers_memory_efficient_attention()
    except Exception as error:  # not installed, built for another torch, no kernel for this device: each its own class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise user_error("model.attention", f"xformers cannot run here ({reason})", remedy) from error
