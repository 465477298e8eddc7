"""The tokens of language models: byte-level BPE as a tokenizer.json describes it, and the frame around a caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from loralab.models.text.tokens import VOCABULARY, Measure, tokens_of
from loralab.types import Fit

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE = "tokenizer.json"
CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
"""The chat template of Qwen for one message of the user and an answer that may begin with thoughts."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Qwen's tokens that no text has; the first is padding."""


class Frame(NamedTuple):
    """What a language model reads of a caption."""

    limit: int
    """Tokens, those of the template included; further ones are cut off."""
    template: str = "{}"
    """With the caption in it."""
    end: str = ""
    """The token that follows, also where a caption is cut."""

    def ids(self, tokenizer: Tokenizer, caption: str) -> list[int]:
        ids, end = self._all(tokenizer, caption), tokenizer.token_to_id(self.end) if self.end else None
        return ids[: self.limit] if end is None else [*ids[: self.limit - 1], end]

    def fit(self, tokenizer: Tokenizer, caption: str) -> Fit:
        return Fit(1, max(0, len(self._all(tokenizer, caption)) + bool(self.end) - self.limit))

    def measure(self, tokenizer: Tokenizer) -> Measure:
        """Of captions, the tokens around them not counted."""
        around = len(self._all(tokenizer, ""))

        def of(caption: str) -> tuple[int, Fit]:
            return len(self._all(tokenizer, caption)) - around, self.fit(tokenizer, caption)

        return Measure(self.limit - around - bool(self.end), of)

    def _all(self, tokenizer: Tokenizer, caption: str) -> list[int]:
        return tokenizer.encode(self.template.replace("{}", caption), add_special_tokens=False).ids


def tokenizer_folder(place: Path, kind: str = "tokenizer", alone: bool = False) -> Path | None:
    """Where in the folder of a model, or of a tokenizer alone, the tokenizer.json is; kind: its folder in a model. That
    of a language model may be at the root."""
    folders = (place / kind, *([place] if alone or kind == "tokenizer" else []))
    return next((folder for folder in folders if (folder / FILE).is_file()), None)


def read_tokenizer(folder: Path) -> Tokenizer:
    """That of a folder with a tokenizer.json."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / FILE))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def of_bytes(special: tuple[str, ...] = SPECIAL, words: Sequence[str] = ()) -> Tokenizer:
    """A tokenizer for miniatures: each of these words, also with the space before it, is a token, else each byte;
    special ones, by default Qwen's, come first."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*special, *letters, *(start + word for word in words for start in ("", "Ġ"))]
    vocabulary = {name: at for at, name in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=bool(words)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=bool(words))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    return tokenizer


def measure(frame: Frame, model: Mapping[str, Any], public: str, kind: str = "tokenizer") -> Measure:
    """How captions are counted under the settings of a composed `model` node, where its tokenizer or that of a public
    model is on this disk; else by CLIP's, which has about as many tokens to a word. kind: its setting and folder."""
    places = (model.get(kind), model.get("base"), model.get("text_encoder"), model.get("tokenizer"), public)
    folders = (_folder(place, kind, alone=not number) for number, place in enumerate(places) if place)
    folder = next(filter(None, folders), None)
    if folder is not None:
        return frame.measure(read_tokenizer(folder))
    count = tokens_of(str(VOCABULARY))
    return Measure(frame.limit, lambda caption: (n := len(count(caption)), Fit(1, max(0, n - frame.limit))))


def _folder(place: str, kind: str, alone: bool) -> Path | None:
    """The folder of a place's tokenizer.json."""
    here = Path(place).expanduser()
    if here.exists() or place.count("/") != 1:
        return tokenizer_folder(here, kind, alone)
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(place, prefix + FILE) for prefix in (f"{kind}/", ""))
    return next((Path(file).parent for file in found if isinstance(file, str)), None)
