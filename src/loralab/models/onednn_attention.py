"""Attention on a CPU in fp32, by oneDNN.

torch's kernel multiplies by MKL, which uses half the vector width on processors that are not Intel's. Here the scores
of some queries at a time stay in a core's cache, and are computed again in backward, as in FlashAttention (arXiv
2205.14135). Heads go to as many threads as torch uses, each product is of one thread: the result is the same for any
number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from loralab.models.onednn import IS_INTEL, WORKS, product

WORTHWHILE = 2**18
"""Scores of a head below which torch's kernel is as fast."""
SCORES = 2**19
"""Of a head that are computed at a time: they fill 2 MB."""
FEWEST = 128
"""Queries at a time: fewer would keep a product's matrices too small."""


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query · keyᵀ / √D) · value; query (B, H, N, D), key and value (B, H, M, D): (B, H, N, D).

    As torch's scaled_dot_product_attention, up to rounding.
    """
    is_large = query.shape[2] * key.shape[2] >= WORTHWHILE
    # first whether torch.compile traces it, to which the rest is unknown
    if not torch.compiler.is_compiling() and is_large and all(map(_can_be, (query, key, value))) and is_faster():
        return _Attention.apply(query, key, value)  # pyright: ignore[reportReturnType]
    return F.scaled_dot_product_attention(query, key, value)


def _can_be(tensor: Tensor) -> bool:
    """Whether it is in fp32 on a CPU, and not one of the shapes alone that a memory plan computes with."""
    return type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.dtype == torch.float32


@cache
def is_faster() -> bool:
    """Whether there are vectors of which MKL leaves half unused, and oneDNN's products work."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512" and WORKS and not IS_INTEL


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        out = torch.empty_like(query)
        _each_head(_forward, query, key, value, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        given = ctx.saved_tensors
        gradients = tuple(torch.empty_like(each) for each in given)
        _each_head(_backward, *given, gradient, *gradients)
        return gradients


def _forward(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
    """Fills out (N, D) from the matrices of a head."""
    rows, k, turned = q * _scale(q), k.contiguous(), _turned(v)
    for part in _parts(q, k):
        out[part] = product(product(rows[part], k).softmax(-1), turned)


def _backward(q: Tensor, k: Tensor, v: Tensor, of_out: Tensor, of_q: Tensor, of_k: Tensor, of_v: Tensor) -> None:
    """Fills the last three, the gradients of the first three, from that of the output."""
    rows, of_out, k, v, turned = q * _scale(q), of_out.contiguous(), k.contiguous(), v.contiguous(), _turned(k)
    sums = k.new_zeros(2, *turned.shape)  # of_k and of_v, (D, M) each
    for part in _parts(q, k):
        weights = product(rows[part], k).softmax(-1)  # (n, M)
        of_scores = torch.ops.aten._softmax_backward_data(product(of_out[part], v), weights, -1, weights.dtype)
        of_q[part] = product(of_scores, turned)
        sums[0] += product(_turned(rows[part]), of_scores.t())
        sums[1] += product(_turned(of_out[part]), weights.t())
    of_q *= _scale(q)
    of_k[:], of_v[:] = sums[0].t(), sums[1].t()


def _each_head(compute: Callable[..., None], *tensors: Tensor) -> None:
    """Calls it with the matrices of each head of tensors (B, H, …)."""
    heads = [[head for sample in tensor.detach() for head in sample] for tensor in tensors]
    threads = torch.get_num_threads()
    if threads == 1:
        list(map(compute, *heads))
    else:
        list(_pool(os.getpid(), threads).map(compute, *heads))


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Of a process: one that is forked has none of its parent's threads."""
    everyone = Barrier(threads)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # a thread looks up at its first use what was set last, by any
        everyone.wait()

    pool = ThreadPoolExecutor(threads, initializer=start)
    list(pool.map(int, range(threads)))
    torch.set_num_threads(threads)
    return pool


def _parts(q: Tensor, k: Tensor) -> Iterator[slice]:
    """The queries (N, D) in such numbers that a part's scores with the keys (M, D) stay in the cache."""
    count = max(FEWEST, SCORES // len(k))
    return (slice(start, start + count) for start in range(0, len(q), count))


def _scale(q: Tensor) -> float:
    return q.shape[-1] ** -0.5


def _turned(matrix: Tensor) -> Tensor:
    return matrix.t().contiguous()
