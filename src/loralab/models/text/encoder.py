"""Text encoders: from captions to what a denoiser reads."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor

from loralab.types import Fit


class Text(NamedTuple):
    """Encoded captions."""

    hidden: Tensor
    """(B, T, D)"""
    pooled: Tensor | None = None
    """(B, D) one state for the whole caption, where the encoder has one."""
    lengths: tuple[int, ...] | None = None
    """(B) how many of the T states are of the caption, where the others are padding; None: all."""


class TextEncoder(Protocol):
    """A text model with its tokenizer and the settings of how its states are taken."""

    model: Any
    """The module, on which adapters may sit."""

    def __call__(self, captions: list[str]) -> Text:
        """The states of captions (B)."""
        ...

    def fit(self, caption: str) -> Fit:
        """Whether a caption is cut."""
        ...

    def reaches(self, path: str) -> bool:
        """Whether the states depend on the module of this path."""
        return True

    def tokenizer_id(self) -> str:
        """A digest of what decides the tokens of a caption."""
        ...

    def signature(self) -> tuple[Any, ...]:
        """What, beside the model's weights, decides the states of a caption."""
        ...
