"""From captions to hidden states: tokens in chunks, clip skip, weights.

A long prompt is encoded in chunks of 75 tokens, each with its own begin and end token. Their states are then joined
into one sequence: the begin state of the first chunk, the 75 states of every chunk, the last state of the last one.

Shapes: B captions, N chunks, T = 77 tokens of a chunk, S = 75 N + 2 states of a prompt, D features.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from loralab.models import fingerprint
from loralab.models.text.emphasis import parse
from loralab.models.text.encoder import Text
from loralab.models.text.tokens import CHUNK, chunked
from loralab.types import Fit


@dataclass(slots=True)
class Clip:
    """A CLIP text model with its tokenizer and the settings of how its states are taken (see encoder.TextEncoder).

    The pooled text is the projected state at the end of the first chunk, where the model has a projection.
    """

    model: Any
    """CLIPTextModel or CLIPTextModelWithProjection."""
    tokenizer: Any
    chunks: int = 1
    clip_skip: int = 1
    """Which layer's states are taken, counted from the end: 1 is the last."""
    final_norm: bool = True
    """Whether the final layer norm is applied to them."""
    emphasis: bool = False
    """Whether captions are read with weights (see emphasis)."""

    def __call__(self, captions: list[str]) -> Text:
        ids, weights = self.tokens(captions)  # (B, N, T)
        return self.encode(ids, weights)

    def encode(self, ids: Tensor, weights: Tensor | None = None) -> Text:
        """Hidden states of token ids (B, N, T), each state times its token's weight (B, N, T)."""
        device = next(self.model.parameters()).device
        flat = ids.flatten(0, 1).to(device, non_blocking=True)  # (B N, T)
        taken_within = self.clip_skip > 1 or not self.final_norm
        out = self.model(flat, attention_mask=self.mask(flat), output_hidden_states=taken_within)
        hidden = out.hidden_states[-self.clip_skip] if taken_within else out.last_hidden_state
        if taken_within and self.final_norm:
            hidden = body(self.model).final_layer_norm(hidden)
        hidden = join(hidden.unflatten(0, ids.shape[:2]))
        if weights is not None:
            hidden = hidden * join(weights.to(hidden)).unsqueeze(-1)
        pooled = getattr(out, "text_embeds", None)
        return Text(hidden, None if pooled is None else pooled.unflatten(0, ids.shape[:2])[:, 0])

    def mask(self, ids: Tensor) -> Tensor | None:
        """The causal mask (1, 1, T, T) for sdpa on a GPU. Left to itself, transformers has one in some versions only
        while a CUDA graph is recorded, and then another kernel computes the same, rounded in another way."""
        if ids.device.type != "cuda" or self.model.config._attn_implementation != "sdpa":
            return None
        return torch.ones(1, 1, *ids.shape[-1:] * 2, dtype=torch.bool, device=ids.device).tril()

    def tokens(self, captions: list[str]) -> tuple[Tensor, Tensor | None]:
        """Token ids (B, N, T), and the weight of each where captions are read with weights."""
        rows = [[self._chunk(run) for run in self._runs(caption)[0]] for caption in captions]
        ids = torch.tensor([[ids for ids, _ in row] for row in rows])
        weights = torch.tensor([[weights for _, weights in row] for row in rows]) if self.emphasis else None
        return ids, weights

    def fit(self, caption: str) -> Fit:
        """How many chunks a caption needs, and how many of its tokens would be cut off."""
        if len(caption.encode()) <= CHUNK:  # every token is at least one byte long
            return Fit(1, 0)
        runs, lost = self._runs(caption)
        return Fit(max(1, sum(map(bool, runs))), lost)

    def reaches(self, path: str) -> bool:
        """Whether the states depend on the module of this path: clip skip leaves the last layers out.

        The pooled text, where there is one, comes from the last layer.
        """
        layer = re.search(r"layers\.(\d+)\.", path)
        taken = self.model.config.num_hidden_layers - (self.clip_skip - 1)
        return layer is None or int(layer[1]) < taken or hasattr(self.model, "text_projection")

    def signature(self) -> tuple[Any, ...]:
        """What, beside the model's weights, decides the states of a caption."""
        return self.chunks, self.clip_skip, self.final_norm, self.emphasis, self.tokenizer_id()

    def tokenizer_id(self) -> str:
        """A digest of what decides the tokens of a caption."""
        return fingerprint.tokenizer(self.tokenizer)

    def _runs(self, caption: str) -> tuple[list[list[tuple[int, float]]], int]:
        """N runs of at most 75 (token, weight), and the number of tokens that were cut off."""
        pieces = parse(caption) if self.emphasis else [(caption, 1.0)]
        tokens = [
            (token, weight)
            for text, weight in pieces
            for token in self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        ]
        names = self.tokenizer.convert_ids_to_tokens([token for token, _ in tokens])
        parts, lost = chunked(names, self.chunks)
        return [tokens[part] for part in parts], lost

    def _chunk(self, run: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
        """T ids and weights: begin, the run, end, and the padding that this tokenizer uses."""
        fill = CHUNK - len(run)
        begin, end, pad = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
        ids = [begin, *(token for token, _ in run), end, *[pad] * fill]
        return ids, [1.0, *(weight for _, weight in run), 1.0, *[1.0] * fill]


def join(chunks: Tensor) -> Tensor:
    """(B, N, T, …) → (B, S, …): one begin, the middles of all chunks, one end."""
    return torch.cat([chunks[:, 0, :1], chunks[:, :, 1:-1].flatten(1, 2), chunks[:, -1, -1:]], dim=1)


def body(model: nn.Module) -> Any:
    """The module that holds the layers: `text_model` in classes that wrap it, else the model itself."""
    return getattr(model, "text_model", model)
