"""The import of diffusers and transformers, which takes a second or two."""

from __future__ import annotations

import sys
from pkgutil import resolve_name

from loralab.imports import without
from loralab.models.row import Row
from loralab.models.vae import vae_class

UNUSED = ("bitsandbytes", "peft")
"""What diffusers imports where it is installed, for models that it loads and adapters that it puts on itself."""


def import_classes(row: Row, whole: bool) -> None:
    """Imports the classes of a family's parts and of the usual VAE.

    whole: with what diffusers can do by `UNUSED`, which loralab never does by diffusers.
    """
    if not whole and "diffusers" not in sys.modules:
        with without(*UNUSED):
            import diffusers.utils  # noqa: F401  # looks for them once
    for part in row.parts.values():
        resolve_name(part.module)
    resolve_name(vae_class({}))
