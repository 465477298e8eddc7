"""The scores of pictures: cosines of a scorer's embeddings. The higher, the better.

Those of images and prompts are CLIP-I and CLIP-T of DreamBooth (Ruiz et al. 2022, arXiv 2208.12242, section 4.1).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PREFIX = "score/"
IMAGES, PROMPT, DIVERSITY = SCORES = ("score/images", "score/prompt", "score/diversity")


def scores(drawn: Tensor, prompts: Tensor, kinds: Sequence[Hashable], references: Tensor | None) -> dict[str, float]:
    """The scores of pictures that were drawn together, by name; those that cannot be had are not there.

    drawn (N, D), prompts (N, D), references (M, D): of the pictures, of each one's prompt, and of training images, of
    unit length. kinds (N): equal for pictures that differ by their seed only.
    """
    found = {} if references is None else {IMAGES: to_images(drawn, references)}
    found[PROMPT] = to_prompts(drawn, prompts)
    alike = [[i for i, other in enumerate(kinds) if other == kind] for kind in dict.fromkeys(kinds)]
    if several := [diversity(drawn[places]) for places in alike if len(places) > 1]:
        found[DIVERSITY] = sum(several) / len(several)
    return found


def to_images(drawn: Tensor, references: Tensor) -> float:
    """The mean cosine of every picture (N, D) with every training image (M, D): CLIP-I."""
    return (drawn @ references.T).mean().item()


def to_prompts(drawn: Tensor, prompts: Tensor) -> float:
    """The mean cosine of each picture (N, D) with its prompt (N, D): CLIP-T."""
    return (drawn * prompts).sum(1).mean().item()


def diversity(drawn: Tensor) -> float:
    """The mean of 1 − cosine over the pairs of pictures (N, D) of one prompt, N ≥ 2; 0 where all are the same."""
    count = len(drawn)
    cosines = drawn @ drawn.T
    return 1 - ((cosines.sum() - cosines.trace()) / (count * (count - 1))).item()
