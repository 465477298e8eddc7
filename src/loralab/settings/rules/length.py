"""How long to train, and which of steps and epochs decides."""

from __future__ import annotations

from loralab.settings import kinds
from loralab.settings.foreign import Foreign
from loralab.settings.rules.ours import Ours

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
"""Which option decides in each dialect: the first that has a value."""

KEYS = {STEPS: "trainer.max_steps", EPOCHS: "trainer.max_epochs", "epoch": "trainer.max_epochs"}


def length(foreign: Foreign, ours: Ours) -> None:
    order = DECIDES[foreign.length or foreign.dialect]
    given = [name for name in order if foreign.has(name)]
    for name in given[1:]:
        foreign.take(name, kinds.whole)  # a wrong value is an error, used or not
        foreign.leave(name, f"{foreign.keys[given[0]]} decides")
    for name in given[:1] or order:
        if (value := foreign.take(name, kinds.whole)) is not None:
            ours.set(KEYS[name], value, name)
            if name != STEPS:
                ours.set("trainer.max_steps", None, name)
            return
