"""Which parts are trained, and their learning rates."""

from __future__ import annotations

import re
from typing import Any

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce

UNET_ONLY, TEXT_ONLY = "network_train_unet_only", "network_train_text_encoder_only"


def targets(foreign: Foreign, ours: Ours) -> None:
    unet_only, text_only = foreign.take(UNET_ONLY, coerce.flag), foreign.take(TEXT_ONLY, coerce.flag)
    if unet_only and text_only and "targets" not in ours.given.choices:
        other = foreign.keys[TEXT_ONLY]
        foreign.problem(
            UNET_ONLY,
            f"cannot be combined with {other}: nothing would be trained",
            "keep one of them, or set targets=both",
        )
    option = "unet_only" if unet_only else "text_encoder_only" if text_only else "both"
    if foreign.absent or UNET_ONLY in foreign.options or TEXT_ONLY in foreign.options:
        ours.choose("targets", option, UNET_ONLY, TEXT_ONLY)
    _rates(foreign, ours, ours.chosen("targets") or option)


def _rates(foreign: Foreign, ours: Ours, option: str) -> None:
    unet, text = foreign.take("unet_lr", coerce.number), foreign.take("text_encoder_lr", rates) or []
    if option == "text_encoder_only":
        foreign.leave("unet_lr", "the UNet is not trained")
    elif unet is not None:
        ours.set("targets.unet_lr", unet, "unet_lr")
    if option == "unet_only":
        foreign.leave("text_encoder_lr", "the text encoder is not trained")
        return
    for key, rate in zip(("targets.text_encoder_lr", "targets.text_encoder_2_lr"), text, strict=False):
        ours.set(key, rate, "text_encoder_lr")


def rates(value: Any) -> list[float]:
    """One learning rate for all text encoders, or one for each of the two."""
    parts = value if isinstance(value, list) else re.split(r"[,\s]+", str(value).strip("[]() "))
    found = [coerce.number(part) for part in parts]
    if len(found) not in (1, 2):
        raise ValueError("a number, or two numbers")
    return found
