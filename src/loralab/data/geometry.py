"""Where the pixels of a bucket come from: an image is resized to cover it, then cropped to it."""

from __future__ import annotations

import random

Size = tuple[int, int]
"""(width, height), pixels."""

Corner = tuple[int, int]
"""(top, left), pixels."""


def cover(size: Size, bucket: Size) -> Size:
    """The smallest size of the same aspect ratio that covers the bucket."""
    (width, height), (bucket_width, bucket_height) = size, bucket
    wider = width / height > bucket_width / bucket_height
    scale = bucket_height / height if wider else bucket_width / width
    return int(width * scale + 0.5), int(height * scale + 0.5)


def crop_corner(resized: Size, bucket: Size, rng: random.Random | None = None) -> Corner:
    """The crop's (top, left) in the resized image: centred, or random if a generator is given."""
    left, top = resized[0] - bucket[0], resized[1] - bucket[1]
    assert min(left, top) >= 0, f"{resized} does not cover {bucket}"
    if rng is None:
        return top // 2, left // 2
    return rng.randint(0, top), rng.randint(0, left)


def mirrored(corner: Corner, resized: Size, bucket: Size) -> Corner:
    """The crop's (top, left) as seen in the mirrored image (a condition of some models)."""
    top, left = corner
    return top, resized[0] - bucket[0] - left
