"""The CLIP text encoders of a base model, with their tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loralab.errors import user_error
from loralab.models import hub
from loralab.models.families.sd.original import is_open_clip
from loralab.models.load import Base
from loralab.models.probe import look_at_tokenizer
from loralab.models.row import Row
from loralab.models.text.clip import Clip
from loralab.models.text.tokens import CHUNK, VOCABULARY


def encoders(
    base: Base,
    tokenizer: str | None,
    max_token_length: int,
    emphasis: bool,
    clip_skip: int,
    final_norm: bool = True,
) -> dict[str, Clip]:
    """By part, with their settings; tokenizer: `model.tokenizer`."""
    found, tokenizers = {}, load_tokenizers(base.row, tokenizer, base.folder)
    for part, model in base.text_encoders.items():
        known, has = len(tokenizers[part]), model.config.vocab_size
        if known > has:
            words = f"has {known} tokens, but the {part} of {base.path} has {has}"
            remedy = "give the folder of the tokenizer that belongs to the base model"
            raise user_error("model.tokenizer", words, remedy)
        if clip_skip > (layers := model.config.num_hidden_layers):
            raise user_error(
                "model.clip_skip", f"invalid value {clip_skip}", f"valid: 1 to {layers}, the text encoder's layers"
            )
        found[part] = Clip(model, tokenizers[part], max_token_length // CHUNK, clip_skip, final_norm, emphasis)
    return found


def load_tokenizers(row: Row, path: str | None, folder: Path | None = None) -> dict[str, Any]:
    """A CLIP tokenizer for each text encoder: from `path`, `model.tokenizer`; else from a diffusers folder that has
    them all; else with CLIP's vocabulary."""
    own = {part: part.replace("text_encoder", "tokenizer") for part in row.text_encoders}
    if path is not None:
        folder = hub.locate(path, "model.tokenizer", look_at_tokenizer, hub.TOKENIZER, weights=False)
    elif folder is None or not all((folder / name).is_dir() for name in own.values()):
        folder = VOCABULARY
    return {part: _tokenizer(row, part, folder, name) for part, name in own.items()}


def _tokenizer(row: Row, part: str, folder: Path, own: str) -> Any:
    """That of a part, which pads a prompt as the text encoder was trained: CLIP's with the end, open_clip's with 0."""
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    place = next((folder / name for name in (own, "tokenizer") if (folder / name).is_dir()), folder)
    tokenizer = CLIPTokenizer.from_pretrained(str(place), local_files_only=True)
    if place.name != own:
        tokenizer.pad_token = "!" if is_open_clip(row, part) else "<|endoftext|>"
    return tokenizer
