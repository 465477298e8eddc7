"""Triton's kernels of `fused`: they read and write each number once a pass, and compute in fp32.

Tensors are dense, with the channels last. Nothing is timed to choose between kernels and nothing is added atomically:
the same input gives the same bits. Importing this needs triton, which comes with torch for CUDA on Linux.
"""

from __future__ import annotations

from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

ROWS, COLUMNS = 64, 64
"""Pixels and channels of a tile, which is what a program computes: 128 bytes in a row, and 32 numbers a thread."""
MERGED = 2048
"""Sums of tiles that a program takes at once."""
GATE_ROWS, GATE_COLUMNS = 8, 256


def moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Of each group of channels of x (B, …, C): mean and 1 / √(variance + eps), each (B, groups) in fp32."""
    batch, pixels, channels = _sizes(x)
    size = channels // groups
    means, squares = _sums(x)
    mean, scale = x.new_empty(2, batch, groups, dtype=torch.float32)
    _launch(_moments, _tiles(x), x, means, squares, pixels, channels, ROWS, COLUMNS)
    sizes = (pixels, channels, means.shape[1], size)
    _launch(_merge_moments, (groups, batch), means, squares, mean, scale, eps, *sizes, ROWS, *_merged(size))
    return mean, scale


def normalized(x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """x (B, …, C) normalised, times the weight (C,), plus the bias (C,), and SiLU of it if so: as x."""
    _, pixels, channels = _sizes(x)
    out = torch.empty_like(x)
    sizes = (pixels, channels, mean.shape[1])
    _launch(_normalized, _tiles(x), x, mean, scale, weight, bias, out, *sizes, silu, ROWS, COLUMNS)
    return out


def normalized_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, scale: Tensor, weight: Tensor, bias: Tensor, silu: bool
) -> Tensor:
    """From the gradient of what `normalized` gives that of x, on which the moments depend, too."""
    batch, pixels, channels = _sizes(x)
    groups = mean.shape[1]
    inputs, sizes, size = (gradient, x, mean, scale, weight, bias), (pixels, channels, groups), channels // groups
    sums, products = _sums(x)
    of_mean, of_scale = torch.empty_like(mean), torch.empty_like(scale)
    out = torch.empty_like(x)
    _launch(_gradient_sums, _tiles(x), *inputs, sums, products, *sizes, silu, ROWS, COLUMNS)
    merged = (sums, products, of_mean, of_scale, pixels, channels, sums.shape[1], size)
    _launch(_merge_sums, (groups, batch), *merged, *_merged(size))
    _launch(_normalized_backward, _tiles(x), *inputs, of_mean, of_scale, out, *sizes, silu, ROWS, COLUMNS)
    return out


def gated(x: Tensor) -> Tensor:
    """The first half of x (…, 2D) times gelu of the second: (…, D)."""
    out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    rows, columns = x.numel() // x.shape[-1], out.shape[-1]
    _launch(_gated, _gates(rows, columns), x, out, rows, columns, GATE_ROWS, GATE_COLUMNS)
    return out


def gated_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """From the gradient of what `gated` gives that of x."""
    out = torch.empty_like(x)
    rows, columns = x.numel() // x.shape[-1], gradient.shape[-1]
    _launch(_gated_backward, _gates(rows, columns), gradient, x, out, rows, columns, GATE_ROWS, GATE_COLUMNS)
    return out


def _launch(kernel: Any, grid: tuple[int, ...], x: Tensor, *arguments: Any) -> None:
    with torch.cuda.device_of(x):  # Triton's own choice is the current device
        kernel[grid](x, *arguments)


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Images, pixels of each, channels."""
    return len(x), x.shape[1:-1].numel(), x.shape[-1]


def _tiles(x: Tensor) -> tuple[int, int, int]:
    batch, pixels, channels = _sizes(x)
    return triton.cdiv(pixels, ROWS), triton.cdiv(channels, COLUMNS), batch


def _gates(rows: int, columns: int) -> tuple[int, int]:
    return triton.cdiv(rows, GATE_ROWS), triton.cdiv(columns, GATE_COLUMNS)


def _sums(x: Tensor) -> Tensor:
    """Two for each channel of each row of tiles: (2, B, rows, C)."""
    return x.new_empty(2, len(x), _tiles(x)[0], x.shape[-1], dtype=torch.float32)


def _merged(size: int) -> tuple[int, int]:
    """Tiles and channels of a group of that size that a program merges at once."""
    columns = triton.next_power_of_2(size)
    return max(MERGED // columns, 1), columns


@triton.jit
def _tile(pixels, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The program's channels (COLUMNS,), where its tile is in x, and what of it is inside: (ROWS, COLUMNS)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    first = tl.program_id(2).to(tl.int64) * pixels  # a batch may have more than 2**31 numbers
    place = (first + row)[:, None] * channels + column[None, :]
    return column, place, (row < pixels)[:, None] & (column < channels)[None, :]


@triton.jit
def _place_of_sums(column, channels):
    return (tl.program_id(2).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)) * channels + column


@triton.jit
def _of_groups(values, column, channels, groups):
    """For each channel of the tile, what its group has of values (B, groups): (1, COLUMNS)."""
    group = tl.program_id(2) * groups + column // (channels // groups)
    return tl.load(values + group, mask=column < channels, other=0.0)[None, :]


@triton.jit
def _of_channels(values, column, channels):
    return tl.load(values + column, mask=column < channels, other=0.0).to(tl.float32)[None, :]


@triton.jit
def _moments(x, means, squares, pixels, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Of each channel of the tile the mean, and the sum of the squared differences from it."""
    column, place, inside = _tile(pixels, channels, ROWS, COLUMNS)
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(values, axis=0) / tl.minimum(pixels - tl.program_id(0) * ROWS, ROWS)
    difference = tl.where(inside, values - mean[None, :], 0.0)
    place = _place_of_sums(column, channels)
    tl.store(means + place, mean, mask=column < channels)
    tl.store(squares + place, tl.sum(difference * difference, axis=0), mask=column < channels)


@triton.jit
def _sums_of_group(first, tiles, channels, size, TILES: tl.constexpr, COLUMNS: tl.constexpr):
    """The tiles (TILES,) from the first on, where the sums of the program's group are, and which of them there are."""
    tile, column = first + tl.arange(0, TILES), tl.arange(0, COLUMNS)
    row = tl.program_id(1).to(tl.int64) * tiles + tile
    place = row[:, None] * channels + (tl.program_id(0) * size + column)[None, :]
    return tile, place, (tile < tiles)[:, None] & (column < size)[None, :]


@triton.jit
def _merge_moments(
    means, squares, mean, scale, eps, pixels, channels, tiles, size,
    ROWS: tl.constexpr, TILES: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of a group, from those of its channels' tiles: by differences from its mean, as squares would cancel."""
    numbers = 1.0 * pixels * size
    total = tl.zeros([TILES, COLUMNS], tl.float32)
    for first in range(0, tiles, TILES):
        tile, place, inside = _sums_of_group(first, tiles, channels, size, TILES, COLUMNS)
        count = tl.minimum(pixels - tile * ROWS, ROWS).to(tl.float32)[:, None]
        total += tl.load(means + place, mask=inside, other=0.0) * count
    average = tl.sum(total) / numbers
    total = tl.zeros([TILES, COLUMNS], tl.float32)
    for first in range(0, tiles, TILES):
        tile, place, inside = _sums_of_group(first, tiles, channels, size, TILES, COLUMNS)
        count = tl.minimum(pixels - tile * ROWS, ROWS).to(tl.float32)[:, None]
        difference = tl.load(means + place, mask=inside, other=0.0) - average
        square = tl.load(squares + place, mask=inside, other=0.0)
        total += tl.where(inside, square + count * difference * difference, 0.0)
    place = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(mean + place, average)
    tl.store(scale + place, 1.0 / tl.sqrt(tl.sum(total) / numbers + eps))


@triton.jit
def _normalized(
    x, mean, scale, weight, bias, out, pixels, channels, groups,
    SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column, place, inside = _tile(pixels, channels, ROWS, COLUMNS)
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = _of_groups(mean, column, channels, groups)
    normal = (values - mean) * _of_groups(scale, column, channels, groups)
    result = normal * _of_channels(weight, column, channels) + _of_channels(bias, column, channels)
    if SILU:
        result = result * tl.sigmoid(result)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _normal_and_gradient(
    gradient, x, mean, scale, weight, bias, column, place, inside, channels, groups, SILU: tl.constexpr
):
    """The tile of x, normalised, and the gradient with regard to that."""
    values = tl.load(x + place, mask=inside, other=0.0).to(tl.float32)
    mean = _of_groups(mean, column, channels, groups)
    normal = (values - mean) * _of_groups(scale, column, channels, groups)
    weight = _of_channels(weight, column, channels)
    toward = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    if SILU:
        result = normal * weight + _of_channels(bias, column, channels)
        gate = tl.sigmoid(result)
        toward = toward * gate * (1.0 + result * (1.0 - gate))
    return normal, toward * weight


@triton.jit
def _gradient_sums(
    gradient, x, mean, scale, weight, bias, sums, products, pixels, channels, groups,
    SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of each channel of the tile: of the gradient, and of its product with what is normalised."""
    column, place, inside = _tile(pixels, channels, ROWS, COLUMNS)
    normal, toward = _normal_and_gradient(
        gradient, x, mean, scale, weight, bias, column, place, inside, channels, groups, SILU
    )
    place = _place_of_sums(column, channels)
    tl.store(sums + place, tl.sum(toward, axis=0), mask=column < channels)
    tl.store(products + place, tl.sum(toward * normal, axis=0), mask=column < channels)


@triton.jit
def _merge_sums(
    sums, products, of_mean, of_scale, pixels, channels, tiles, size, TILES: tl.constexpr, COLUMNS: tl.constexpr
):
    """Of a group, from those of its channels' tiles, divided by how many numbers it has."""
    numbers = 1.0 * pixels * size
    total = tl.zeros([TILES, COLUMNS], tl.float32)
    total_product = tl.zeros([TILES, COLUMNS], tl.float32)
    for first in range(0, tiles, TILES):
        _, place, inside = _sums_of_group(first, tiles, channels, size, TILES, COLUMNS)
        total += tl.load(sums + place, mask=inside, other=0.0)
        total_product += tl.load(products + place, mask=inside, other=0.0)
    place = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    tl.store(of_mean + place, tl.sum(total) / numbers)
    tl.store(of_scale + place, tl.sum(total_product) / numbers)


@triton.jit
def _normalized_backward(
    gradient, x, mean, scale, weight, bias, of_mean, of_scale, out, pixels, channels, groups,
    SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    column, place, inside = _tile(pixels, channels, ROWS, COLUMNS)
    normal, toward = _normal_and_gradient(
        gradient, x, mean, scale, weight, bias, column, place, inside, channels, groups, SILU
    )
    lost = _of_groups(of_mean, column, channels, groups) + normal * _of_groups(of_scale, column, channels, groups)
    result = _of_groups(scale, column, channels, groups) * (toward - lost)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _halves(x, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The tile's hidden and gate, where in x (rows, 2 · columns) they are, and what of it is inside."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    place = row[:, None] * columns + column[None, :]
    first = place + row[:, None] * columns
    hidden = tl.load(x + first, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(x + first + columns, mask=inside, other=0.0).to(tl.float32)
    return hidden, gate, first, place, inside


@triton.jit
def _normal_distribution(x):
    """Up to x: gelu(x) is x times it."""
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _gated(x, out, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    hidden, gate, _, place, inside = _halves(x, rows, columns, ROWS, COLUMNS)
    result = hidden * gate * _normal_distribution(gate)
    tl.store(out + place, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _gated_backward(gradient, x, out, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    hidden, gate, first, place, inside = _halves(x, rows, columns, ROWS, COLUMNS)
    toward = tl.load(gradient + place, mask=inside, other=0.0).to(tl.float32)
    below = _normal_distribution(gate)
    slope = below + gate * 0.3989422804014327 * tl.exp(-0.5 * gate * gate)
    tl.store(out + first, (toward * gate * below).to(out.dtype.element_ty), mask=inside)
    tl.store(out + first + columns, (toward * hidden * slope).to(out.dtype.element_ty), mask=inside)
