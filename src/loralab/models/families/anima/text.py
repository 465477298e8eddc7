"""The text conditioner: the tokens of a caption as T5 counts them, put in the context of Qwen3's states.

Shapes: B captions, S tokens of Qwen3's and T of T5's in the longest, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from loralab.models import fingerprint
from loralab.models.text.encoder import Text, TextEncoder
from loralab.types import Fit

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from loralab.models.text.causal import CausalText
    from loralab.models.text.language import Frame


@dataclass(slots=True)
class Conditioner(TextEncoder):
    """An AnimaTextConditioner with T5's tokenizer and the language model whose states it reads (see TextEncoder)."""

    model: Any
    tokenizer: Tokenizer
    frame: Frame
    source: CausalText

    def __call__(self, captions: list[str]) -> Text:
        """States (B, T, D), zeros after the end of a caption."""
        read = self.source(captions)
        assert read.lengths is not None
        states = read.hidden.to(next(self.model.parameters()).dtype)  # (B, S, D)
        states = states * _within(read.lengths, states).unsqueeze(-1)
        # an empty caption has one state of zeros, from which nothing comes
        is_read = _within([max(1, length) for length in read.lengths], states)
        rows = [self.frame.ids(self.tokenizer, caption) for caption in captions]
        lengths = tuple(map(len, rows))
        longest = max(lengths)
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=states.device)
        out = self.model(states, ids, _within(lengths, ids), is_read)
        return Text(out[:, :longest], lengths=lengths)

    def fit(self, caption: str) -> Fit:
        """How many tokens are cut off by that tokenizer which cuts off more."""
        return max(self.source.fit(caption), self.frame.fit(self.tokenizer, caption), key=lambda fit: fit.lost)

    def tokenizer_id(self) -> str:
        return fingerprint.tokenizer_rules(self.tokenizer.to_str())

    def signature(self) -> tuple[Any, ...]:
        return (*self.frame, self.tokenizer_id())


def _within(lengths: Sequence[int], padded: Tensor) -> Tensor:
    """(B, n) whether each of the n places of `padded` (B, n, …) is within the length of its row."""
    places = torch.arange(padded.shape[1], device=padded.device)
    return places < torch.tensor(lengths, device=padded.device).unsqueeze(1)
