"""How many tokens a caption has, without loading a model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

CLIP = "openai/clip-vit-large-patch14"
"""All Stable Diffusion models read with this vocabulary."""

_FILES = ("vocab.json", "merges.txt")
_WHOLE = "tokenizer.json"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Counter(NamedTuple):
    """Counts the tokens of a caption, begin and end not included."""

    count: Callable[[str], int]
    source: str | None
    """Where the vocabulary was found; None: counts are estimates."""


def token_counter(*places: str | None) -> Counter:
    """Counts with the first CLIP vocabulary found in models, folders or cached hub ids; else gives estimates."""
    for place in filter(None, (*places, CLIP)):
        if (folder := _vocabulary(place)) is not None:
            encode = _tokenizer(folder).encode
            return Counter(lambda text, encode=encode: len(encode(text, add_special_tokens=False).ids), str(folder))
    return Counter(_estimate, None)


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


def _estimate(text: str) -> int:
    """A word has a token for every six letters begun, a digit or a run of signs one."""
    words = re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", text)
    return sum(-(-len(word) // 6) if word[0].isalpha() else 1 for word in words)
