"""The parameters and points of a sweep, as Hydra's basic sweeper makes them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig

from loralab.command.overrides import parse, values_of
from loralab.errors import Problem

ANNOUNCE = "loralab"
"""The name among Hydra's callbacks of the one that announces the runs of a sweep."""


def is_multirun() -> bool:
    """Whether the configuration composed last is a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def is_search() -> bool:
    """Whether the sweeper chooses points by the results of earlier ones (Optuna)."""
    return HydraConfig.get().runtime.choices["hydra/sweeper"] != "basic"


def folder() -> Path | None:
    """The folder of the sweep that the current run is a point of."""
    return Path(HydraConfig.get().sweep.dir).absolute() if is_multirun() else None


def trial() -> DictConfig | None:
    """The search that the current run reports to, with the run's number as `trial`; None where nothing prunes it.

    Validation losses are known while a run trains; a search by anything else has no pruner.
    """
    node = HydraConfig.get().sweeper if is_multirun() else {}
    prunes = "trial" in node and node.get("pruner") and metric() in (None, "validation/loss")
    return node if prunes else None  # type: ignore[return-value]


def metric() -> str | None:
    """What the search that the current run is part of goes by; None: its default."""
    return HydraConfig.get().sweeper.get("metric") if is_multirun() else None


def own_of_run(overrides: Iterable[str]) -> list[str]:
    """Those of the current run's overrides that differ from the other runs of its sweep."""
    announced = (HydraConfig.get().callbacks or {}).get(ANNOUNCE) if is_multirun() else None
    return own(overrides, parse(list(announced["swept"]))[0]) if announced else []


def parameters() -> list[str]:
    """The overrides that the chosen sweep defines: `hydra.sweeper.params`."""
    found = HydraConfig.get().sweeper.get("params") or {}
    return [f"{key}={value}" for key, value in found.items() if value is not None]


def points(parsed: list[Override]) -> Iterator[list[str]]:
    """The overrides of each point, in the order in which they run."""
    named = {o.get_key_element(): o for o in parsed}  # the last one of a key, at the position of the first
    every = [[f"{key}={value}" for value in values_of(o)] for key, o in named.items() if o.is_sweep_override()]
    alone = [o.input_line or "" for o in named.values() if not o.is_sweep_override()]
    return ([*alone, *point] for point in itertools.product(*every))


def own(point: Iterable[str], swept: Iterable[Override]) -> list[str]:
    """The overrides of a point that differ from other points."""
    varied = {o.get_key_element() for o in swept if o.is_sweep_override()}
    return [short(override) for override in point if override.partition("=")[0] in varied]


def short(override: str) -> str:
    """The override with 0.0001 written as 1e-4, and an empty list of options as null."""
    key, _, text = override.partition("=")
    try:
        mantissa, exponent = f"{float(text):e}".split("e")
    except ValueError:
        return f"{key}=null" if text == "[]" else override
    shorter = f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{key}={shorter if len(shorter) < len(text) and set('.e') & set(text) else text}"


def count(swept: Iterable[Override]) -> int:
    """The number of points."""
    return math.prod(len(values_of(o)) for o in swept if o.is_sweep_override())


def count_of_search() -> int | None:
    """The number of runs that a search makes at most, if it says how many."""
    node = HydraConfig.get().sweeper
    return node.n_trials * node.get("seeds", 1) if "n_trials" in node else None


def problems(parsed: list[Override]) -> Iterator[Problem]:
    """Problems of overrides that the sweeper cannot run, and of folders that all runs would share."""
    yield from _shared_places(parsed)
    for o in parsed:
        if o.key_or_group == "sweep" and o.is_sweep_override():
            yield Problem(
                "sweep", f"takes one option (given as {o.input_line})", "combine several as a list: sweep=[a,b]"
            )
        if o.is_interval_sweep() and not is_search():
            low, high = o.value().start, o.value().end  # type: ignore[union-attr]
            found = f"the basic sweeper needs a list of values, not an interval (given as {o.input_line})"
            remedy = f"write {o.key_or_group}={low:g},{high:g}, or use a sweeper that samples: hydra/sweeper=optuna"
            yield Problem(o.key_or_group, found, remedy)


def _shared_places(parsed: list[Override]) -> Iterator[Problem]:
    """Problems of folders that every run of the sweep would write to."""
    swept = [o.key_or_group for o in parsed if o.is_sweep_override()]
    given = {o.key_or_group: o.input_line or "" for o in parsed}
    if count(parsed) < 2 or not swept:
        return
    own = "${hydra:job.num}"
    folder, names = given.get("output.folder", ""), {"output.folder", "output.name", "output.format"}
    alike = not any("${" in given.get(name, "") for name in names) and names.isdisjoint(swept)
    if folder.partition("=")[2] not in ("", "null") and alike:
        found = f"all runs of the sweep would write the same file (given as {folder})"
        yield Problem("output.folder", found, f"'{folder}/{own}'")
    subdir = given.get("hydra.sweep.subdir")
    if subdir and "${" not in subdir and "hydra.sweep.subdir" not in swept:
        found = f"all runs of the sweep would share one folder (given as {subdir})"
        yield Problem("hydra.sweep.subdir", found, f"'hydra.sweep.subdir={own}'")
