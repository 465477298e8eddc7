"""A CLIP tokenizer with a few hundred entries: every byte, and the words of the little world."""

from __future__ import annotations

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

from scripts.tiny_model import pictures

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (*pictures.COLOURS, *pictures.KNOWN_SHAPES, "background", "on", "a")


def build() -> CLIPTokenizer:
    """Words of the world are one token each; anything else falls into its bytes, so no text is unknown."""
    letters = sorted(ByteLevel.alphabet())
    tokens = letters + [letter + END_OF_WORD for letter in letters]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + END_OF_WORD]
        # From the end of the word on, so that merges of one word do not break into another's
        while len(pieces) > 1:
            *rest, left, right = pieces
            if (left, right) not in merges:
                merges.append((left, right))
                tokens.append(left + right)
            pieces = [*rest, left + right]
    vocabulary = {token: index for index, token in enumerate([*tokens, START, END])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)
