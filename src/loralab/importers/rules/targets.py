"""Which parts are trained, and the learning rates of the text encoders."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours

UNET_ONLY, TEXT_ONLY = "network_train_unet_only", "network_train_text_encoder_only"


def targets(foreign: Foreign, ours: Ours) -> None:
    unet_only, text_only = foreign.take(UNET_ONLY), foreign.take(TEXT_ONLY)
    if unet_only and text_only and "targets" not in ours.given.choices:
        found = f"cannot be combined with {foreign.keys[TEXT_ONLY]}: nothing would be trained"
        foreign.problem(UNET_ONLY, found, "keep one of them, or set targets=both")
    if foreign.absent or UNET_ONLY in foreign.options or TEXT_ONLY in foreign.options:
        option = "unet_only" if unet_only else "text_encoder_only" if text_only else "both"
        ours.choose("targets", option, UNET_ONLY, TEXT_ONLY)


def rates(foreign: Foreign, ours: Ours) -> None:
    given = foreign.take("text_encoder_lr") or []
    if ours.chosen("targets") == "unet_only":
        foreign.leave("text_encoder_lr", "the text encoder is not trained")
        return
    for key, rate in zip(("targets.text_encoder_lr", "targets.text_encoder_2_lr"), given, strict=False):
        ours.set(key, rate, "text_encoder_lr")
