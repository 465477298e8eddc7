"""Language models as text encoders: the states of one of their layers at each token of a caption.

Captions of a batch are padded to the right. As each state depends on what is before it alone, those of a caption are
the same, up to rounding, whatever else is in the batch.

Shapes: B captions, T tokens of the longest, D features.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from loralab.models import fingerprint
from loralab.models.text.encoder import Text
from loralab.models.text.language import Frame
from loralab.types import Fit

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(slots=True)
class CausalText:
    """A causal language model of transformers, without its head, with its tokenizer (see encoder.TextEncoder)."""

    model: Any
    tokenizer: Tokenizer
    frame: Frame
    layer: int = -1
    """Which of the model's hidden_states are taken: -1 those after the last norm, -2 those before the last layer."""

    def __call__(self, captions: list[str]) -> Text:
        rows = [self.frame.ids(self.tokenizer, caption) for caption in captions]
        longest = max(1, *map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        device = next(self.model.parameters()).device
        # no mask: no state of a caption depends on the padding after it
        out = self.model(input_ids=ids.to(device), output_hidden_states=self.layer != -1, use_cache=False)
        hidden = out.last_hidden_state if self.layer == -1 else out.hidden_states[self.layer]
        return Text(hidden, lengths=tuple(map(len, rows)))

    def fit(self, caption: str) -> Fit:
        return self.frame.fit(self.tokenizer, caption)

    def reaches(self, path: str) -> bool:
        layer = re.match(r"layers\.(\d+)\.", path)
        return layer is None or int(layer[1]) <= self.model.config.num_hidden_layers + self.layer

    def tokenizer_id(self) -> str:
        return fingerprint.tokenizer_rules(self.tokenizer.to_str())

    def signature(self) -> tuple[Any, ...]:
        return (*self.frame, self.layer, self.tokenizer_id())
