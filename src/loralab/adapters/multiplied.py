"""Adapters that multiply a weight, where others add to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from loralab.adapters.base import Method, Tensors


@dataclass(frozen=True, kw_only=True)
class Multiplied(Method):
    """W' = `product`(W). Its size is not scaled: alpha has no meaning."""

    alpha: None = None
    conv_alpha: None = None
    rs_lora: Literal[False] = False

    needs_weight: ClassVar = True
    starts_at_zero: ClassVar = frozenset()

    @classmethod
    def product(cls, tensors: Tensors, weight: Tensor) -> Tensor:
        """The multiplied weight, of the same shape, (out, in) or (out, in, kh, kw), in fp32."""
        raise NotImplementedError

    @classmethod
    def change(cls, tensors: Tensors, scale: float, shape: torch.Size, weight: Tensor | None) -> Tensor:
        assert weight is not None, "a multiplied weight must be known"
        with torch.autocast(weight.device.type, enabled=False):  # a difference of what is nearly equal
            weight = weight.float().reshape(shape)
            return cls.product({name: t.float() for name, t in tensors.items()}, weight) - weight

    @staticmethod
    def rank_of(tensors: Tensors) -> int | None:
        return None
