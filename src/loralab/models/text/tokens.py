"""The tokens of captions, counted without loading a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from loralab.models.text.emphasis import parse
from loralab.types import Fit

CHUNK = 75
"""Tokens in a chunk, its own begin and end not counted."""
END_OF_WORD = "</w>"
"""What the name of a word's last token ends with, in CLIP's vocabulary."""
VOCABULARY = Path(__file__).parents[2] / "assets" / "clip"
"""CLIP's tokenizer, for models that come without one, such as single files."""

_FILES = ("vocab.json", "merges.txt")
_WHOLE = "tokenizer.json"
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class Measure(NamedTuple):
    """How long captions are for the text encoders of a family."""

    most: int
    """Tokens; longer captions are cut."""
    of: Callable[[str], tuple[int, Fit]]
    """The number of a caption's tokens, and whether it is cut."""


def in_chunks(tokens: Callable[[str], list[str]], most: int = CHUNK) -> Measure:
    """CLIP's, whose captions are read in chunks of 75 tokens."""

    def measure(caption: str) -> tuple[int, Fit]:
        names = tokens(caption)
        parts, lost = chunked(names, most // CHUNK)
        return len(names), Fit(max(1, sum(bool(names[part]) for part in parts)), lost)

    return Measure(most, measure)


def chunked(names: Sequence[str], chunks: int) -> tuple[list[slice], int]:
    """So many slices of at most 75 tokens, and the number of tokens that were cut off.

    names: of the tokens. A word that would be cut goes whole into the next chunk.
    """
    found, start = [], 0
    for remaining in reversed(range(chunks)):
        stop = start + CHUNK
        if remaining and stop < len(names):
            ends = (at for at in range(stop, start, -1) if names[at - 1].endswith(END_OF_WORD))
            stop = next(ends, stop)
        found.append(slice(start, stop))
        start = min(stop, len(names))
    return found, len(names) - start


def clip(model: Mapping[str, Any]) -> Measure:
    """Of the CLIP text encoders of a composed `model` node."""
    tokens = tokens_of(model.get("tokenizer"), model.get("base"), emphasis=bool(model.get("emphasis")))
    return in_chunks(tokens, model.get("max_token_length") or CHUNK)


def tokens_of(*places: str | None, emphasis: bool = False) -> Callable[[str], list[str]]:
    """A function that gives the tokens of a caption, without those for its start and end.

    It uses the first vocabulary found in the places (models, folders, hub ids in the Hub's cache), else CLIP's own.
    emphasis: captions are weighted, and the syntax for weights is not tokenized.
    """
    folders = (_vocabulary(place) for place in places if place)
    of = partial(_named, _tokenizer(next(filter(None, folders), VOCABULARY)))
    return (lambda text: [name for part, _ in parse(text) for name in of(part)]) if emphasis else of


def _named(tokenizer: Any, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


def _vocabulary(place: str) -> Path | None:
    """The folder with the vocabulary of a place."""
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
