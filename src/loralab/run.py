"""The composition root: the only place where a configuration becomes objects."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig

from loralab.config.command_line import prepare, refuse, split, sweeps
from loralab.config.compose import CONF, choices_of, register_resolvers, values
from loralab.config.menu import menu
from loralab.config.place_rules import run_problems
from loralab.config.signature import parameters
from loralab.errors import UserError
from loralab.settings import many
from loralab.settings.recipe import recipe
from loralab.settings.save import save as save_settings

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from loralab.data.module import DataModule
    from loralab.training.module import LoraModule
    from loralab.training.resume import Resume

failed: list[str] = []
"""Folders of the runs of this process that a user's mistake ended: a sweep goes on, its exit code is 1."""


def main(argv: list[str] | None = None) -> None:
    """`python train.py …`: checks the command line, then lets Hydra run the task once or for each point of a sweep."""
    flags, overrides = split(sys.argv[1:] if argv is None else argv)
    if {"--help", "-h"} & set(flags):
        print(menu())
        return
    try:
        overrides, warnings, _, cfg, _ = prepare(overrides, sweeps(flags, overrides))
        if problems := list(run_problems(values(cfg), overrides)):
            raise UserError(*problems)
    except UserError as error:
        sys.exit(_told(error))
    for warning in warnings:
        print(f"note: {warning}", file=sys.stderr)
    if folder := many.run_folder(overrides):
        sys.exit(many.run(folder, overrides, flags))
    sys.argv[1:] = [*flags, *overrides]
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug shows its whole traceback
    register_resolvers()
    try:
        hydra.main(config_path=str(CONF), config_name="train", version_base="1.3")(task)()
    except KeyboardInterrupt:  # not while it trains: see callbacks/interrupt.py
        print("\nstopped", file=sys.stderr)
        sys.exit(130)
    sys.exit(1 if failed else 0)


def task(cfg: DictConfig) -> float | None:
    """One run in the folder that Hydra made for it; gives a sweeper the value to minimise."""
    context = HydraConfig.get()
    folder, overrides = Path(context.runtime.output_dir), list(context.overrides.task)
    choices = choices_of(context)
    try:
        refuse(cfg, choices, overrides)
        if cfg.settings.save_folder:
            print("settings written:", save_settings(values(cfg), choices, Path(cfg.settings.save_folder)))
        return None if cfg.settings.save_only else train(cfg, folder, overrides, choices)
    except UserError as error:
        failed.append(str(folder))
        _told(error)
        return None


def train(cfg: DictConfig, folder: Path, overrides: list[str], choices: dict[str, Any]) -> float:
    """Builds the objects, trains, and keeps the record of it in `folder`/run.json; returns the loss to minimise."""
    from loralab.training.quiet import quiet

    quiet()
    from loralab.adapters.inject import inject
    from loralab.report.record import Record
    from loralab.report.summary import closing, ending, opening
    from loralab.training.describe import Describe
    from loralab.training.memory import memory_advice
    from loralab.training.module import LoraModule
    from loralab.training.resume import choose
    from loralab.training.signature import signature
    from loralab.training.state import States

    settings = values(cfg)
    with Record(folder, overrides) as record, memory_advice(settings):
        data = instantiate(cfg.data, _partial_=False, seed=cfg.seed)  # before a model is loaded: it may find mistakes
        family = instantiate(cfg.model)
        data.attach(family)
        method, targets = instantiate(cfg.adapter), instantiate(cfg.targets)
        adapters = inject(family, method, targets, cfg.seed)
        objective = instantiate(cfg.objective)
        objective.count_tags(data.tag_counts(), data.tags_of)
        module = LoraModule(
            family,
            adapters,
            objective,
            instantiate(cfg.optimizer),
            instantiate(cfg.scheduler),
            lr=cfg.optimizer.lr,
            seed=cfg.seed,
            ema=instantiate(cfg.ema),
        )
        describe = Describe(settings, recipe(settings, choices), family, adapters, data)
        output = instantiate(cfg.output)(run_folder=folder, describe=describe)
        output.refuse_to_overwrite()
        states = States(folder / "states")
        given = {"output": output, "run_folder": folder, "settings": settings, "states": states}
        trainer = instantiate(cfg.trainer)(
            callbacks=[instantiate(cfg.health)(states=states), *_callbacks(cfg.callbacks, **given)],
            logger=_loggers(cfg.logger, folder),
            default_root_dir=folder,
        )
        states.signature = signature(settings, family, adapters, data.plan, trainer.world_size)
        resume = choose(cfg.resume, [Path(cfg.resume_root), folder], states.signature, cfg.resume_force)
        record.add(resumed=resume and str(resume.state.path))
        print(opening(module, data, trainer, output), flush=True)
        _fit(trainer, module, data, resume)
        record.add(**ending(module, data, trainer, output))
        print(closing(record.facts, folder))
        return record.facts["loss"]


def _fit(trainer: Trainer, module: LoraModule, data: DataModule, resume: Resume | None) -> None:
    """Trains, from the start or from a state."""
    if resume:
        from loralab.callbacks.resumed import Resumed

        data.resume(resume.state.epoch, resume.state.batch)
        trainer.callbacks.append(Resumed(resume))  # type: ignore[attr-defined]
    try:
        trainer.fit(module, data, ckpt_path=resume and resume.state.file, weights_only=True)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning makes a failure of it
            raise KeyboardInterrupt from None
        raise


def instantiate(node: Any, **given: Any) -> Any:
    """Builds a node from plain lists and dicts, never config nodes; a user's mistake comes out as what it is."""
    try:
        return hydra_instantiate(node, _convert_="all", **given)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def _callbacks(nodes: DictConfig, **given: Any) -> list[Callback]:
    """The enabled callbacks; each is given those of the run's own objects that it asks for."""
    built = []
    for node in (nodes or {}).values():
        if node is None or not node.get("enabled", True):
            continue
        settings = {key: value for key, value in node.items() if key != "enabled"}
        callback = instantiate(settings)
        asked = {key: value for key, value in given.items() if key in (parameters(node["_target_"]) or {})}
        built.append(callback(**asked) if node.get("_partial_") else callback)
    return built


def _loggers(nodes: DictConfig, folder: Path) -> list[Logger]:
    """Loggers write into the run's folder; under a `save_dir` of the user's, each run is a version of its own."""
    built = []
    for node in (nodes or {}).values():
        if node is not None:
            place = (
                {}
                if node.get("save_dir")
                else {"save_dir": str(folder)} | ({"version": ""} if "version" in node else {})
            )
            built.append(instantiate(node, **place))
    return built


def _told(error: UserError) -> int:
    """Prints a user's mistake and gives the exit code that goes with it."""
    many_of_them = f"{len(error.problems)} things" if len(error.problems) > 1 else "one thing"
    print(f"loralab: {many_of_them} to change first\n", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem}", file=sys.stderr)
    return 1
