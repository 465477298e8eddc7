"""How long to train, and which of steps and epochs takes precedence."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema.catalogue import OPTIONS

STEPS, EPOCHS = "max_train_steps", "max_train_epochs"

DECIDES = {
    "old-json": (STEPS, EPOCHS),
    "sd-scripts-toml": (EPOCHS, STEPS),
    "easy-toml": (EPOCHS, STEPS),
    "command-line": (EPOCHS, STEPS),
    "kohya-gui": (EPOCHS, STEPS, "epoch"),
    "lora-metadata": (STEPS, EPOCHS),
    "sd-scripts-dataset": (),
}
"""Options by precedence in each dialect: the first that is set is used."""


def length(foreign: Foreign, ours: Ours) -> None:
    order = DECIDES[foreign.length or foreign.dialect]
    given = [name for name in order if foreign.has(name)]
    for name in given[1:]:
        foreign.take(name)  # an invalid value is an error even where it is not used
        foreign.leave(name, f"overridden by {foreign.keys[given[0]]}")
    for name in given[:1] or order:
        if (value := foreign.take(name)) is not None:
            ours.set(OPTIONS[name].key, value, name)
            if name != STEPS:
                ours.set("trainer.max_steps", None, name)
            return
