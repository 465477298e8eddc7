"""The tokens of a caption, without loading a model."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from loralab.models.chunks import END_OF_WORD
from loralab.models.emphasis import parse

CLIP = "openai/clip-vit-large-patch14"
"""All Stable Diffusion models read with this vocabulary."""

_FILES = ("vocab.json", "merges.txt")
_WHOLE = "tokenizer.json"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Tokens(NamedTuple):
    """Names the tokens of a caption, begin and end not included."""

    of: Callable[[str], list[str]]
    source: str | None
    """Where the vocabulary was found; None: they are estimates."""


def tokens_of(*places: str | None, emphasis: bool = False) -> Tokens:
    """By the first CLIP vocabulary found in models, folders or cached hub ids; else estimates.

    emphasis: captions are weighted, and the signs of that are no tokens.
    """
    of, source = _found(*places)
    if not emphasis:
        return Tokens(of, source)
    return Tokens(lambda text: [name for part, _ in parse(text) for name in of(part)], source)


def _found(*places: str | None) -> Tokens:
    for place in filter(None, (*places, CLIP)):
        if (folder := _vocabulary(place)) is not None:
            return Tokens(partial(_named, _tokenizer(folder)), str(folder))
    return Tokens(_estimate, None)


def _named(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


def _vocabulary(place: str) -> Path | None:
    """The folder of a vocabulary."""
    here = Path(place).expanduser()
    for folder in (here / "tokenizer", here):
        if all((folder / name).is_file() for name in _FILES) or (folder / _WHOLE).is_file():
            return folder
    if here.exists() or place.count("/") != 1:
        return None
    from huggingface_hub import try_to_load_from_cache

    for prefix in ("tokenizer/", ""):
        found = [try_to_load_from_cache(place, prefix + name) for name in _FILES]
        if all(isinstance(file, str) for file in found):
            return Path(found[0]).parent  # type: ignore[arg-type]
    return None


def _tokenizer(folder: Path) -> Any:
    """CLIP's: lower case, words and single digits, byte pairs with an end-of-word mark."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    if (folder / _WHOLE).is_file():
        tokenizer = Tokenizer.from_file(str(folder / _WHOLE))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer
    files = [str(folder / name) for name in _FILES]
    tokenizer = Tokenizer(models.BPE.from_file(*files, end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _estimate(text: str) -> list[str]:
    """A word has a token for every six letters begun, a digit or a run of signs one."""
    names = []
    for word in re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", text):
        parts = [word[at : at + 6] for at in range(0, len(word), 6)] if word[0].isalpha() else [word]
        names += [*parts[:-1], parts[-1] + END_OF_WORD]
    return names
