"""The tokenizer of a base model whose text encoder is a language model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from loralab.errors import user_error
from loralab.models import hub
from loralab.models.load import Base, has_weights
from loralab.models.probe import look_at_tokenizer
from loralab.models.text.language import FILE, of_bytes, read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def load_tokenizer(base: Base, path: str | None, text_encoder: str | None, public: str) -> Tokenizer:
    """From `path`, `model.tokenizer`; else from the base's folder, or from that of `model.text_encoder`; else that of a
    public model, a Hub id. Raises UserError where it has none."""
    if not has_weights():  # of shapes alone, for which nothing is downloaded
        return of_bytes()
    folders = (base.folder, text_encoder and Path(text_encoder).expanduser())
    own = [folder for folder in folders if folder and _place(folder) is not None] if path is None else []
    folder = (
        own[0]
        if own
        else hub.locate(path or public, "model.tokenizer", look_at_tokenizer, hub.TOKENIZER, weights=False)
    )
    place = _place(folder)
    if place is None:
        remedy = f"give a folder with {FILE}, as transformers saves it"
        raise user_error("model.tokenizer", f"{folder} has no {FILE}", remedy)
    return checked(read_tokenizer(place), base)


def checked(tokenizer: Tokenizer, base: Base) -> Tokenizer:
    """A tokenizer, if the base's text encoder knows all of its tokens. Raises UserError."""
    (model,) = base.text_encoders.values()
    known, has = tokenizer.get_vocab_size(), model.config.vocab_size
    if known > has:
        found = f"has {known} tokens, but the text encoder of {base.path} has {has}"
        raise user_error("model.tokenizer", found, "give the folder of the tokenizer that belongs to the base model")
    return tokenizer


def _place(folder: Path) -> Path | None:
    return next((place for place in (folder / "tokenizer", folder) if (place / FILE).is_file()), None)
