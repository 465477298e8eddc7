"""The composition root: the only place where a configuration becomes objects."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from loralab.config.command_line import checked, prepare, split
from loralab.config.compose import CONF, register_resolvers, values
from loralab.config.menu import menu
from loralab.errors import UserError
from loralab.settings import many
from loralab.settings.save import save as save_settings

failed: list[str] = []
"""Folders of the runs of this process that a user's mistake ended: a sweep goes on, its exit code is 1."""


def main(argv: list[str] | None = None) -> None:
    """`python train.py …`: checks the command line, then lets Hydra run the task once or for each point of a sweep."""
    flags, overrides = split(sys.argv[1:] if argv is None else argv)
    if {"--help", "-h"} & set(flags):
        print(menu())
        return
    try:
        overrides, warnings = prepare(overrides)
    except UserError as error:
        sys.exit(_told(error))
    for warning in warnings:
        print(f"note: {warning}", file=sys.stderr)
    if folder := many.run_folder(overrides):
        sys.exit(many.run(folder, overrides, flags))
    sys.argv[1:] = [*flags, *overrides]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug shows its whole traceback
    register_resolvers()
    hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")(task)()
    sys.exit(1 if failed else 0)


def task(cfg: DictConfig) -> float | None:
    """One run in the folder that Hydra made for it; gives a sweeper the value to minimise."""
    context = HydraConfig.get()
    folder, overrides = Path(context.runtime.output_dir), list(context.overrides.task)
    try:
        _, choices = checked(overrides)
        if cfg.settings.save_folder:
            print("settings written:", save_settings(values(cfg), choices, Path(cfg.settings.save_folder)))
        return None if cfg.settings.save_only else train(cfg, folder, overrides)
    except UserError as error:
        failed.append(str(folder))
        _told(error)
        return None


def train(cfg: DictConfig, folder: Path, overrides: list[str]) -> float | None:
    """Builds the objects, trains, and keeps the record of it in `folder`/run.json."""
    from hydra.utils import instantiate

    from loralab.report.record import Record
    from loralab.training.quiet import quiet

    quiet()
    with Record(folder, overrides) as record:
        from loralab.training.session import Session

        family = instantiate(cfg.model)
        session = Session(
            family=family,
            data=instantiate(cfg.data),
            targets=instantiate(cfg.targets),
            make_adapter=instantiate(cfg.adapter),
            objective=instantiate(cfg.objective),
            make_optimizer=instantiate(cfg.optimizer),
            make_schedule=instantiate(cfg.scheduler),
            make_output=instantiate(cfg.output),
            seed=cfg.seed,
            folder=folder,
        )
        return session
    return None


def _told(error: UserError) -> int:
    """Prints a user's mistake and gives the exit code that goes with it."""
    many_of_them = f"{len(error.problems)} things" if len(error.problems) > 1 else "one thing"
    print(f"loralab: {many_of_them} to change first\n", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem}", file=sys.stderr)
    return 1


def _built(nodes: DictConfig | None, **given: Any) -> list[Any]:
    return []
