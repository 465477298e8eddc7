"""Starts runs by Hydra with a configuration that is composed already, or with the sweeper that it names."""

from __future__ import annotations

from pathlib import Path

from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import configure_log, run_job
from hydra.types import HydraContext, RunMode, TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from loralab.schema.compose import Places, loader


def run(task: TaskFunction, cfg: DictConfig, folder: Path | None = None, is_trusted: bool = True) -> None:
    """One run with a whole configuration, as Hydra's own run() does after it has composed one.

    folder: that of the run, in place of the configured one; is_trusted: whether to set up the callbacks and the logging
    that its `hydra` node names.
    """
    with read_write(cfg.hydra), open_dict(cfg.hydra):
        cfg.hydra.mode = RunMode.RUN
        if folder is not None:
            cfg.hydra.run.dir = str(folder)
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
