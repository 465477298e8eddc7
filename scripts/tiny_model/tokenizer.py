"""Tokenizers with a few hundred entries: every byte, and the words of the little world.

Words of the world are one token each; anything else falls into its bytes, so no text is unknown.
"""

from __future__ import annotations

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, PreTrainedTokenizerFast

from loralab.models.text import language
from scripts.tiny_model import pictures

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = (*pictures.COLOURS, *pictures.KNOWN_SHAPES, "background", "on", "a")
ROLES = ("user", "assistant")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Of chats without a system's message, as Qwen3 has it."""


def build() -> CLIPTokenizer:
    """CLIP's: words in small letters, their last byte marked."""
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


def build_for_flow() -> PreTrainedTokenizerFast:
    """Qwen's: a word has the space before it, and is read in the frame of a chat."""
    pad, _, end = language.SPECIAL
    backend = language.of_bytes(words=(*WORDS, *ROLES))
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=pad, eos_token=end, chat_template=TEMPLATE)
