"""Which attention the UNet and the text encoders compute with."""

from __future__ import annotations

from typing import Any, Literal

import torch

from loralab.errors import user_error

Attention = Literal["auto", "sdpa", "xformers", "eager"]


class MeasuredAttention:
    """A diffusers attention processor that takes whichever measures faster where it runs.

    torch's scaled_dot_product_attention everywhere but in bf16 on a CPU, where its backward is slow.
    """

    def __init__(self) -> None:
        from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

        self.eager, self.sdpa = AttnProcessor(), AttnProcessor2_0()

    def __call__(self, attn: Any, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        chosen = self.eager if slow_sdpa(hidden_states) else self.sdpa
        return chosen(attn, hidden_states, *args, **kwargs)


def slow_sdpa(x: torch.Tensor) -> bool:
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return device == "cpu" and dtype == torch.bfloat16 and torch.is_grad_enabled()


def set_attention(unet: Any, text_encoders: list[Any], attention: Attention) -> None:
    """Chooses the attention of a UNet2DConditionModel and of CLIP text models.

    Text encoders have no xformers; over their 77 tokens it makes no difference, so they take sdpa then.
    """
    from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

    if attention == "xformers":
        _set_xformers(unet)
    else:
        processor = {"auto": MeasuredAttention, "sdpa": AttnProcessor2_0, "eager": AttnProcessor}[attention]()
        unet.set_attn_processor(processor)
    for encoder in text_encoders:
        encoder.set_attn_implementation("eager" if attention == "eager" else "sdpa")


def _set_xformers(unet: Any) -> None:
    remedy = "choose model.attention=auto, or install a build of xformers for this torch: pip install loralab[xformers]"
    if not torch.cuda.is_available():
        raise user_error("model.attention", "xformers needs a CUDA device, and there is none", remedy)
    try:
        unet.enable_xformers_memory_efficient_attention()
    except Exception as error:  # not installed, built for another torch, no kernel for this device: each its own class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise user_error("model.attention", f"xformers cannot run here ({reason})", remedy) from error
