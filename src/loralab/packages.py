"""Packages that only some options need: whether they are installed, checked without importing them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec

from loralab.errors import Problem

OF_CLASS = {
    "lightning.pytorch.loggers.WandbLogger": "wandb",
    "lightning.pytorch.loggers.MLFlowLogger": "mlflow",
    "lightning.pytorch.loggers.CometLogger": "comet_ml",
    "lightning.pytorch.loggers.NeptuneLogger": "neptune",
}
"""The package that a class needs in addition to its own."""

TO_INSTALL = {"comet_ml": "comet-ml"}
"""Import name → name for pip, if they differ."""

OWN = re.compile(r"(?!networks\.|lycoris\.|locon\.)\w+(\.\w+)+")


def is_own(network_module: str) -> bool:
    """Whether it is the import path of a user's own kind of adapter, which files have as their `ss_network_module`."""
    return OWN.fullmatch(network_module) is not None


def missing(setting: str, package: str) -> Iterator[Problem]:
    """A problem if a setting needs a package that is not installed."""
    if find_spec(package) is None:
        name = TO_INSTALL.get(package, package)
        yield Problem(setting, f"needs {package}, which is not installed", f"pip install {name}")


def missing_for(setting: str, target: str) -> Iterator[Problem]:
    """The same for a setting that builds `target`, a dotted name."""
    package = target.partition(".")[0]
    yield from missing(setting, package if find_spec(package) is None else OF_CLASS.get(target, package))
