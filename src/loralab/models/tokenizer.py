"""The tokenizers of base models whose text encoder is a language model."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from loralab.errors import user_error
from loralab.models import hub
from loralab.models.fingerprint import plain
from loralab.models.load import Base, has_weights
from loralab.models.probe import look_at_tokenizer
from loralab.models.text.language import FILE, of_bytes, read_tokenizer, tokenizer_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer(
    base: Base,
    path: str | None,
    public: str,
    *others: str | None,
    kind: str = "tokenizer",
    reader: str = "text_encoder",
) -> Tokenizer:
    """From `path`, the setting that is called as `kind`; else from the base's folder, or from others of the user's;
    else that of a public model, a Hub id. kind: its folder in a whole model. reader: the part that gets its tokens.
    Raises UserError where there is none, or one that this part does not know."""
    own = [base.folder, *(Path(place).expanduser() for place in others if place)]
    found = [tokenizer_folder(place, kind) for place in own if place] if path is None else []
    place = next(filter(None, found), None)
    if place is None and not has_weights():  # of shapes alone, for which nothing is downloaded
        return of_bytes()
    if place is None:
        look = partial(look_at_tokenizer, kind=kind)
        folder = hub.locate(path or public, f"model.{kind}", look, (kind, ""), weights=False)
        place = tokenizer_folder(folder, kind, alone=True) or folder
    if not (place / FILE).is_file():
        remedy = f"give a folder with {FILE}, as transformers saves it"
        raise user_error(f"model.{kind}", f"{place} has no {FILE}", remedy)
    return checked(read_tokenizer(place), base, kind, reader)


def checked(tokenizer: Tokenizer, base: Base, kind: str, reader: str) -> Tokenizer:
    """A tokenizer, if the part of the base that reads it knows all of its tokens. Raises UserError."""
    config = plain(base.text_encoders[reader].config)
    known, has = tokenizer.get_vocab_size(), config.get("vocab_size") or config["target_vocab_size"]
    if known > has:
        found = f"has {known} tokens, but the {base.row.parts[reader].words} of {base.path} has {has}"
        raise user_error(f"model.{kind}", found, "give the folder of the tokenizer that belongs to the base model")
    return tokenizer
