"""What `auto` stands for where other settings decide it, in the configuration that everything reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from loralab.schema.tree import get

BY_PRECISION = {"bf16-mixed": "bf16", "16-mixed": "fp16"}
CAPTIONS_VARY = ("shuffle", "tag_dropout_rate", "token_warmup_steps", "wildcards")
"""Rules by which a caption differs from epoch to epoch."""
ENCODERS = ("text_encoder", "text_encoder_2", "text_conditioner")


def weights_dtype(tree: Any) -> str:
    """Frozen weights have the precision of training: each product is computed in it anyway."""
    return BY_PRECISION.get(get(tree, "trainer.precision"), "fp32")


def caches_texts(tree: Any) -> bool:
    """Texts are cached where latents are, if they stay the same."""
    rules = [get(tree, "data.captions"), *(get(entry, "captions") for entry in get(tree, "data.folders") or [])]
    varies = any(get(each, rule) for each in rules for rule in CAPTIONS_VARY)
    is_cached = get(tree, "data.cache.latents") in ("memory", "disk")
    return is_cached and not varies and not any(changing_encoders(tree))


def changing_encoders(tree: Any) -> Iterator[str]:
    """The settings by which the outputs of text encoders change during training."""
    for part in ENCODERS:
        frozen = get(tree, f"targets.{part}_lr") == 0 and get(tree, "adapter.weights") is None
        if get(tree, f"targets.{part}") and not frozen:
            yield f"targets.{part}"


AUTO: dict[str, Callable[[Any], Any]] = {"model.dtype": weights_dtype, "data.cache.text": caches_texts}
"""Key → its value, by a whole configuration."""
