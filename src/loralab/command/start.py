"""Starts runs by Hydra with a configuration that is composed already, or with the sweeper that it names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from loralab.console import is_first
from loralab.schema.compose import Places, loader


def run(task: TaskFunction, cfg: DictConfig, folder: Path | None = None, is_trusted: bool = True) -> None:
    """One run with a whole configuration, as Hydra's own run() does after it has composed one.

    Of several processes the first writes the configuration. folder: that of the run, in place of the configured one;
    is_trusted: whether to set up the callbacks and the logging
    that its `hydra` node names.
    """
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        if folder is not None:
            cfg.hydra.run.dir = str(folder)
        if is_first():
            cfg.hydra.mode = RunMode.RUN
        else:  # its mode is that of the first, which may be a point of a sweep
            cfg.hydra.output_subdir = None
    if is_trusted:
        configure_log(cfg.hydra.hydra_logging, cfg.hydra.verbose)
    callbacks = Callbacks(cfg if is_trusted else None)
    context = HydraContext(config_loader=loader(), callbacks=callbacks)
    callbacks.on_run_start(config=cfg, config_name=Places.name)
    done = run_job(task, cfg, "hydra.run.dir", None, context, configure_logging=is_trusted)
    callbacks.on_run_end(config=cfg, config_name=Places.name, job_return=done)
    _ = done.return_value  # raises what the task has raised


def sweep(task: TaskFunction, overrides: list[str]) -> None:
    """The runs of a sweep, by the sweeper and launcher that the overrides choose."""
    hydra = Hydra("train", loader())
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)  # launchers look for it
    try:
        hydra.multirun(Places.name, task, [*overrides, "hydra.mode=MULTIRUN"])
    finally:
        GlobalHydra.instance().clear()


def points(task: TaskFunction, overrides: list[str], numbered: list[tuple[int, list[str]]]) -> None:
    """Some points of a sweep, each with its number, by the launcher that the overrides choose; as Hydra's multirun()
    and its basic sweeper do with all of them."""
    hydra = Hydra("train", config_loader := loader())
    GlobalHydra.instance().clear()
    GlobalHydra.instance().initialize(hydra)
    try:
        cfg = hydra.compose_config(Places.name, [*overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        callbacks = Callbacks(cfg)
        context = HydraContext(config_loader=config_loader, callbacks=callbacks)
        launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=cfg)
        callbacks.on_multirun_start(config=cfg, config_name=Places.name)
        for first, group in _consecutive(numbered):
            launcher.launch(group, initial_job_idx=first)
        callbacks.on_multirun_end(config=cfg, config_name=Places.name)
    finally:
        GlobalHydra.instance().clear()


def _consecutive(numbered: list[tuple[int, list[str]]]) -> Iterator[tuple[int, list[list[str]]]]:
    """(first number, points) of each series of points without a gap, which a launcher takes together."""
    for _, group in itertools.groupby(enumerate(numbered), lambda pair: pair[1][0] - pair[0]):
        (first, point), *others = (numbered_point for _, numbered_point in group)
        yield first, [point, *(other for _, other in others)]
