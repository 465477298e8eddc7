"""What scores pictures (`report.scorer`): a CLIP folder, or the tiny model's classifier of shapes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from loralab.errors import Problem, UserError
from loralab.files import what_is_at
from loralab.models.checkpoint import examine
from loralab.places import full

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

SETTING = "report.scorer"
SHAPES = "shapes"
"""The name of the tiny model's own scorer."""
KINDS = ("clip", "siglip")
"""The models that transformers embeds images and texts with."""
_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_TOKENS = ("tokenizer.json", "vocab.json", "spiece.model")
_REMEDY = "give the folder of a CLIP or SigLIP model, such as a copy of openai/clip-vit-large-patch14"


class Scorer(Protocol):
    """Embeds images and texts as vectors (N, D) of unit length: the more alike two are, the larger their cosine."""

    def images(self, images: Sequence[np.ndarray]) -> Tensor: ...
    def texts(self, texts: Sequence[str]) -> Tensor: ...


def load(scorer: str, device: torch.device) -> Scorer:
    """The scorer of this name or in this folder."""
    if scorer == SHAPES:
        from loralab.scorers.shapes import Shapes

        return Shapes(device)
    from loralab.scorers.clip import Clip

    return Clip(full(scorer), device)


def files(scorer: str) -> list[Path]:
    """The files that decide what a scorer computes."""
    if scorer == SHAPES:
        from loralab.scorers.shapes import WEIGHTS

        return [WEIGHTS]
    return sorted(file for file in full(scorer).iterdir() if file.is_file())


def scorer_problems(scorer: Any, setting: str = SETTING) -> Iterator[Problem]:
    """What keeps a value from being a scorer, which is not loaded for this."""
    if scorer in (None, SHAPES):
        return
    if not isinstance(scorer, str) or not scorer:
        yield Problem(setting, f"invalid value {scorer!r}", f"valid: a folder, {SHAPES}, null")
        return
    folder = full(scorer)
    if not folder.is_dir():
        yield Problem(setting, f"'{scorer}' {what_is_at(folder)}", f"{_REMEDY}, or {SHAPES} for the tiny model")
    elif found := _unsuitable(folder):
        yield Problem(setting, f"'{scorer}' {found}", _REMEDY)
    else:
        try:
            for file in (file for kind in _WEIGHTS for file in folder.glob(kind)):
                examine(file, setting)
        except UserError as error:
            yield from error.problems


def _unsuitable(folder: Path) -> str | None:
    """Why a folder is no CLIP, or not a whole one."""
    try:
        kind = json.loads((folder / "config.json").read_text("utf8")).get("model_type")
    except FileNotFoundError:
        return "is no model of transformers: it has no config.json"
    except (OSError, ValueError, AttributeError, RecursionError):
        return "has a config.json that cannot be read"
    if kind not in KINDS:
        return f"holds a model of the type '{kind}', not {' or '.join(KINDS)}"
    for names in (("preprocessor_config.json",), _TOKENS, _WEIGHTS):
        if not any(any(folder.glob(name)) for name in names):
            return f"is incomplete: it has no {' or '.join(names)}"
    return None
