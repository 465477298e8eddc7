"""Aspect-ratio buckets: the size that each image is trained at.

The rule is that of kohya-ss' sd-scripts, number for number:

- Buckets are all (w, h) with w from `min_resolution` to `max_resolution` in steps and h the largest multiple of the
  step that keeps w·h within the resolution's area, together with (h, w) and the largest square.
- An image gets the bucket of its own size where there is one, else the one whose aspect ratio w/h is nearest (the
  first of equals, by width then height), and is resized to cover it.
- With `no_upscale` there are no predefined buckets: an image over the area is shrunk to it (that side is rounded down
  to the step which keeps the aspect ratio better), and the bucket is the resized size rounded down to the step.

In cases that sd-scripts does not handle:

- With `no_upscale`, an image whose short side would be under one step is enlarged to one step, the only enlargement
  there is. Its other side is cropped so that the bucket stays within the area.
- A resolution under one step is taken as one step.
- `min_resolution` is rounded down and `max_resolution` up to a multiple of the step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from loralab.data.geometry import Size, cover
from loralab.errors import user_error
from loralab.schema.ranges import BucketStep, Pixels

LATENT = 8
"""Pixels per side of one latent cell."""

Resolution = int | list[int | list[int]]
"""One pixel budget, a side or [w, h], or a list of several."""


def resolutions(value: Resolution) -> list[Size]:
    """The pixel budgets (w, h): 512 is 512×512, [768, 512] is one [w, h]; [512, 768, 1024] and [[512, 512], [768, 512]]
    are several."""
    one = isinstance(value, int) or [type(v) for v in value] == [int, int]
    found = [(v, v) if isinstance(v, int) else tuple(v) for v in ([value] if one else value)]  # type: ignore[union-attr]
    if not found or not all(len(size) == 2 and min(size) > 0 for size in found):
        raise user_error(
            "data.resolution", f"invalid value {value}", "valid: a number, [width, height], or a list of them"
        )
    return list(dict.fromkeys(found))  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Buckets:
    """How images are sorted by shape. `enabled=False`: one bucket, of the resolution itself.

    min_resolution, max_resolution: the shortest and longest side of a bucket, pixels; null: half and double of the
    resolution's side (the root of its area). Without effect with `no_upscale`.
    step: bucket sides are multiples of this, pixels.
    partial: what is done with samples that do not fill a batch. keep: the last batch of a bucket is smaller.
    merge: buckets of less than one batch join that of the nearest shape. drop: batches that are not full are skipped.
    """

    enabled: bool = True
    min_resolution: Pixels | None = None
    max_resolution: Pixels | None = None
    step: BucketStep = 64
    no_upscale: bool = False
    partial: Literal["keep", "merge", "drop"] = "keep"

    def __post_init__(self) -> None:
        if self.step < 1 or self.step % LATENT:
            raise user_error(
                "data.buckets.step",
                f"{self.step} is not a multiple of {LATENT}",
                "use 64, which suits every model",
            )

    def assign(self, width: int, height: int, resolution: Size) -> tuple[Size, Size]:
        """The bucket of an image, and the size it is resized to, which covers the bucket. All (w, h), pixels."""
        return _assign(self, width, height, resolution)

    def sizes(self, resolution: Size) -> list[Size]:
        """The predefined buckets, ordered by width and height. With `no_upscale` there are none."""
        return [] if self.enabled and self.no_upscale else list(_sizes(self, resolution))

    def refit(self, width: int, height: int, bucket: Size) -> Size:
        """The size that an image is resized to for a bucket that it was moved to."""
        return cover((width, height), bucket)

    def merged(self, counts: Mapping[Size, int], batch: Callable[[Size], int]) -> dict[Size, Size]:
        """Where `partial: merge` moves buckets that do not fill one batch: thin bucket → bucket of the nearest shape.

        counts: samples in each bucket; batch: the batch size of a bucket. Where no bucket fills a batch, all join the
        fullest. With `no_upscale` a bucket is only moved to one that its images cover.
        """
        full = [size for size, count in counts.items() if count >= batch(size)]
        full = full or sorted(counts, key=lambda size: (-counts[size], size))[:1]
        moved = {}
        for thin in counts.keys() - set(full):
            fitting = [f for f in full if not self.no_upscale or (f[0] <= thin[0] and f[1] <= thin[1])]
            if fitting:
                moved[thin] = min(sorted(fitting), key=lambda f: abs(math.log(f[0] / f[1] * thin[1] / thin[0])))
        return moved


@lru_cache(maxsize=1 << 16)
def _assign(buckets: Buckets, width: int, height: int, resolution: Size) -> tuple[Size, Size]:
    assert min(width, height) > 0, (width, height)
    if buckets.enabled and buckets.no_upscale:
        return _own_bucket(width, height, resolution, buckets.step)
    sizes = _sizes(buckets, resolution)
    aspect = width / height
    own = (width, height)
    bucket = own if own in sizes else min(sizes, key=lambda size: abs(size[0] / size[1] - aspect))
    return bucket, cover(own, bucket)


@lru_cache(maxsize=64)
def _sizes(buckets: Buckets, resolution: Size) -> tuple[Size, ...]:
    if not buckets.enabled:
        if resolution[0] % LATENT or resolution[1] % LATENT:
            found = f"{resolution[0]}×{resolution[1]}: both sides must be multiples of {LATENT}"
            raise user_error("data.resolution", found, "round it, or set data.buckets.enabled=true")
        return (resolution,)
    step, area = buckets.step, resolution[0] * resolution[1]
    low, high = _limits(buckets, area)
    square = max(step, _down(math.isqrt(area), step))
    found = {(square, square)}
    for width in range(low, high + 1, step):
        height = min(high, _down(area // width, step))
        if height >= low:
            found |= {(width, height), (height, width)}
    return tuple(sorted(found))


def _limits(buckets: Buckets, area: int) -> tuple[int, int]:
    """The shortest and the longest side of a bucket: multiples of the step."""
    step, side = buckets.step, math.isqrt(area)
    low = side // 2 if buckets.min_resolution is None else buckets.min_resolution
    high = side * 2 if buckets.max_resolution is None else buckets.max_resolution
    for name, limit, wrong in (("min", low, low > side), ("max", high, high < side)):
        if wrong:
            found = f"{limit} is {'above' if limit > side else 'below'} the resolution {side}"
            raise user_error(f"data.buckets.{name}_resolution", found, "set null to derive it from the resolution")
    return max(step, _down(low, step)), -_down(-high, step)


def _own_bucket(width: int, height: int, resolution: Size, step: int) -> tuple[Size, Size]:
    """The bucket that an image which is never enlarged makes for itself, and its resized size."""
    area = resolution[0] * resolution[1]
    resized = _shrunk(width, height, area, step) if width * height > area else (width, height)
    if min(resized) < step:
        scale = step / min(width, height)
        resized = max(step, int(width * scale + 0.5)), max(step, int(height * scale + 0.5))
        longest = max(step, _down(area // step, step))
        return (min(longest, _down(resized[0], step)), min(longest, _down(resized[1], step))), resized
    return (_down(resized[0], step), _down(resized[1], step)), resized


def _shrunk(width: int, height: int, area: int, step: int) -> Size:
    """The size within the area, one side a multiple of the step: that side which keeps the aspect ratio better."""
    aspect = width / height
    full_width = math.sqrt(area * aspect)
    by_width, by_height = _nearest(full_width, step), _nearest(area / full_width, step)
    error_by_width = _aspect_error(by_width, _nearest(by_width / aspect, step), aspect)
    error_by_height = _aspect_error(_nearest(by_height * aspect, step), by_height, aspect)
    if error_by_width < error_by_height:
        return by_width, int(by_width / aspect + 0.5)
    return int(by_height * aspect + 0.5), by_height


def _aspect_error(width: int, height: int, aspect: float) -> float:
    return abs(width / height - aspect) if height else math.inf


def _nearest(x: float, step: int) -> int:
    """The whole number nearest to x, rounded down to the step."""
    return _down(int(x + 0.5), step)


def _down(x: int, step: int) -> int:
    return x - x % step
