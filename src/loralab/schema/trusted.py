"""The allow-list of classes that a configuration may build, so that a configuration from others cannot run code.

A group may build the classes that its files in conf/ name (and the other classes of the same loralab modules), further
classes of the same libraries, and what `allow` on the command line adds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from loralab.errors import Problem
from loralab.schema.compose import CONF

OURS = "loralab."

MORE: dict[str, tuple[str, ...]] = {
    "optimizer": (
        *(f"torch.optim.{name}" for name in ("Adadelta", "Adagrad", "Adam", "Adamax", "ASGD", "NAdam", "RAdam")),
        *("torch.optim.RMSprop", "torch.optim.Rprop", "torch.optim.Adafactor"),
        *(
            f"bitsandbytes.optim.{name}{bits}"
            for name in ("Adagrad", "Adam", "AdamW", "RMSprop")
            for bits in ("", "8bit")
        ),
        *(f"bitsandbytes.optim.{name}{bits}" for name in ("AdEMAMix", "LAMB", "LARS", "SGD") for bits in ("", "8bit")),
        *(f"bitsandbytes.optim.Paged{name}{bits}" for name in ("Adam", "AdamW", "Lion") for bits in ("", "8bit")),
        *("dadaptation.DAdaptAdaGrad", "dadaptation.DAdaptAdan", "dadaptation.DAdaptLion", "dadaptation.DAdaptSGD"),
        *("schedulefree.RAdamScheduleFree", "schedulefree.SGDScheduleFree"),
    ),
    "callbacks": (
        *("lightning.pytorch.callbacks.DeviceStatsMonitor", "lightning.pytorch.callbacks.LearningRateMonitor"),
        *("lightning.pytorch.callbacks.Timer", "loralab.bench.clock.Clock", "loralab.bench.exchange.Exchange"),
    ),
    "logger": tuple(f"lightning.pytorch.loggers.{name}Logger" for name in ("Comet", "MLFlow", "Neptune")),
}
"""Further classes, which no file of conf/ names."""

HYDRA = (
    *("hydra._internal.core_plugins.", "hydra.experimental.callbacks.", "hydra_plugins."),
    *("optuna.samplers.", "optuna.pruners."),
)
"""What the `hydra` node may build: launchers, sweepers and their parts, callbacks that save settings."""

ENTRY = re.compile(r"[A-Za-z_]\w*(\.\w+)*\.?")
"""An entry of `allow`: the dotted name of a class, a module or a package."""


def is_trusted(path: str, target: Any, allow: Sequence[str]) -> bool:
    """Whether the node at `path` of the configuration may build `target`."""
    if not isinstance(target, str):
        return False
    named = {*_named(group_of(path)), *MORE.get(group_of(path), ())}
    module = target.rpartition(".")[0]
    if target in named or (target.startswith(OURS) and module in {name.rpartition(".")[0] for name in named}):
        return True
    return any(target == entry or target.startswith(entry.rstrip(".") + ".") for entry in allow)


def group_of(path: str) -> str:
    """The innermost group that the node at `path` belongs to; "" for nodes of train.yaml."""
    parts = path.split(".")
    names = ("/".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((name for name in names if (CONF / name).is_dir()), "")


def nodes(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node to build, at any depth, with its path."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield path, value
        for key, part in value.items():
            yield from nodes(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield from nodes(part, f"{path}.{number}")


def hydra_problems(node: Any) -> Iterator[Problem]:
    """Problems of nodes in the `hydra` node that are not allowed. Hydra builds them before a run starts."""
    for path, part in nodes(node, "hydra"):
        if not str(part["_target_"]).startswith(HYDRA):
            yield Problem(f"{path}._target_", f"'{part['_target_']}' is not a Hydra plugin", "remove it")


@cache
def _named(group: str) -> frozenset[str]:
    """The classes that the files of a group name."""
    files = (CONF / group).glob("*.yaml") if group else [CONF / "train.yaml"]
    found = (re.findall(r"^\s*_target_:\s*([\w.]+)", file.read_text(encoding="utf8"), re.M) for file in files)
    return frozenset(name for names in found for name in names)
