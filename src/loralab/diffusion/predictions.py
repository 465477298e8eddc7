"""What a model may be asked to predict, and which options of the objective have a meaning for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loralab.errors import Problem

WORDS = {"epsilon": "epsilon", "v_prediction": "v", "flow": "a flow"}
"""What models predict (Process.prediction), in words."""


def meaningless(options: Mapping[str, object], prediction: str) -> Iterator[Problem]:
    """Problems of options, by setting: their class or object may name the `predictions` that it is for."""
    for setting, option in options.items():
        valid = getattr(option, "predictions", (prediction,))
        if prediction not in valid:
            needs = " or ".join(WORDS.get(name, name) for name in valid)
            found = f"needs a model that predicts {needs}, but this one predicts {WORDS.get(prediction, prediction)}"
            yield Problem(setting, found, "remove it")
