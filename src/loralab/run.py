"""The composition root: the only place where a configuration becomes objects."""

from __future__ import annotations

import math
import os
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate
from omegaconf import DictConfig

from loralab import console, signals
from loralab.command import flags, many, start, sweep
from loralab.command.menu import menu
from loralab.command.prepare import prepare, refuse
from loralab.command.rerun import rerun
from loralab.command.run_folder import claim, folder_problems, planned, refuse_to_overwrite, take
from loralab.errors import Diverged, UserError
from loralab.importers.recipe import recipe
from loralab.importers.save import save as save_settings
from loralab.report.loggers import finish, placed
from loralab.report.record import record_failure
from loralab.report.sweep import Runs, announced, to_minimise
from loralab.schema.compose import Places, choices_of, composed_by_hydra, know_places, use_sources, values
from loralab.schema.constructors import parameters
from loralab.schema.settings import written

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from loralab.callbacks.side_work import SideWork
    from loralab.data.module import DataModule
    from loralab.training.module import LoraModule
    from loralab.training.resume import Resume


def main(argv: list[str] | None = None) -> None:
    """`python train.py …`: checks the command line, then lets Hydra run the task once or for each point of a sweep."""
    with signals.listening(for_good=argv is None), console.kept():
        try:
            sys.exit(_main(sys.argv[1:] if argv is None else argv))
        except signals.Interrupted as interrupted:
            if console.is_first():
                print(f"interrupted by {interrupted}", file=sys.stderr)
            # of several processes the first would be killed if another ended with anything but 0
            sys.exit(interrupted.code if console.is_first() else 0)


def _main(argv: list[str]) -> int:
    """Runs the command line; returns the exit code."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug shows its whole traceback
    given, overrides = flags.split(argv)
    try:
        flags.check(given, overrides)
        flags.use_places(given, overrides)
        if "help" in given:
            print(menu())
        elif "experimental_rerun" in given:
            rerun(given["experimental_rerun"], task)
        elif "shell_completion" in given:  # what is typed is not finished
            _hydra(given, overrides)
        else:
            return _prepared(given, overrides)
    except UserError as error:
        return _refused(error)
    return 0


def _prepared(given: flags.Flags, overrides: list[str]) -> int:
    """Checks the overrides, then lets Hydra do its work; returns the exit code."""
    prepared = prepare(overrides, "multirun" in given)
    overrides, swept = prepared.overrides, prepared.swept
    composed = prepared.composed
    place = planned(composed, swept is not None)
    if place and (problems := list(folder_problems(composed.tree, place))):
        raise UserError(*problems)
    for warning in prepared.warnings:
        print(f"note: {warning}", file=sys.stderr)
    if folder := many.run_folder(overrides):
        return many.run(folder, overrides, flags.spelt(given))
    if swept is not None and "cfg" in given:
        _show_points(given, swept)
    elif not {"cfg", "info", "hydra_help"}.isdisjoint(given):
        _hydra(given, overrides)
    else:
        folder = claim(place, is_resumed=composed.cfg.resume is not None) if place else None
        claimed = [f"{place.setting}={written(str(folder))}"] if place else []
        sys.argv[1:] = [
            *_words(given),
            *overrides,
            *claimed,
        ]  # what Lightning starts the processes of other devices with
        if swept is not None and folder:
            return _sweep(folder, [*overrides, *claimed], composed.cfg, swept)
        start.run(partial(task, is_checked=True), composed.cfg, folder)
    return 0


def _show_points(given: flags.Flags, swept: list[Override]) -> None:
    """Prints the configuration of each point of a sweep; of a search, that of one possible point."""
    for number, point in enumerate(sweep.points(swept), 1):
        print(f"# run {number}: {' '.join(sweep.own(point, swept))}")
        _hydra({name: value for name, value in given.items() if name != "multirun"}, [*point, "hydra.mode=RUN"])


def _sweep(folder: Path, overrides: list[str], cfg: DictConfig, swept: list[Override]) -> int:
    """A run for each point, then a table of them; returns the exit code, 1 if one failed."""
    search, started = sweep.is_search(), time.time()
    total = HydraConfig.get().sweeper.get("n_trials") if search else sweep.count(swept)
    runs = Runs(folder, swept, started, 0 if cfg.settings.save_only else total)
    try:
        start.sweep(task, [*overrides, announced(swept, total)])
    finally:
        print(runs.table(), flush=True)
    return 1 if runs.failed(search) else 0


def _hydra(given: flags.Flags, overrides: list[str]) -> None:
    """Lets Hydra show what these flags ask for."""
    know_places()
    sys.argv[1:] = [*_words(given), *overrides]
    hydra.main(config_path=str(Places.main), config_name=Places.name, version_base="1.3")(task)()


def _words(given: flags.Flags) -> list[str]:
    return flags.spelt({name: value for name, value in given.items() if name not in flags.OF_PLACES})


def task(cfg: DictConfig, is_checked: bool = False) -> float | None:
    """One run in the folder that Hydra made for it; returns the value that a sweeper minimises.

    is_checked: whether its settings are; those of a sweep's runs are not, which a sweeper may have chosen.
    A single run that fails ends the process with exit code 1. A failed point of a sweep is reported and recorded, and
    the sweep continues: its value is None, or infinite if the training diverged.
    """
    context = HydraConfig.get()
    use_sources(context)
    folder, overrides, choices = Path(context.runtime.output_dir), list(context.overrides.task), choices_of(context)
    facts: dict[str, Any] = {}
    log = None if cfg.settings.save_only or not console.is_first() else folder / "train.log"
    with signals.listening(), console.kept(log):  # also in the processes of a parallel sweep
        try:
            if not is_checked:
                refuse(composed_by_hydra(cfg, context))
            take(folder, cfg.resume is not None)
            refuse_to_overwrite(values(cfg.output), folder)
            if cfg.settings.save_folder:
                print("settings written:", save_settings(values(cfg), choices, Path(cfg.settings.save_folder)))
            if not cfg.settings.save_only:
                facts = train(cfg, folder, overrides, choices)
        except Exception as error:  # here, so that the log has it
            _refused(error) if isinstance(error, UserError) else traceback.print_exc()
            record_failure(folder, overrides, error)
            facts = {"status": "diverged" if isinstance(error, Diverged) else "failed"}
        finally:
            finish(exit_code=int(facts.get("status") != "finished"))
    if not sweep.is_multirun() and facts.get("status", "finished") != "finished":
        sys.exit(1 if console.is_first() else 0)
    return math.inf if facts.get("status") == "diverged" else to_minimise(facts)


def train(cfg: DictConfig, folder: Path, overrides: list[str], choices: dict[str, Any]) -> dict[str, Any]:
    """Builds the objects and trains; returns the facts that it records in `folder`/run.json."""
    from loralab.training.quiet import quiet

    quiet()
    from loralab.adapters.inject import inject
    from loralab.callbacks.side_work import SideWork
    from loralab.report.record import Record
    from loralab.report.summary import closing, ending, length, opening
    from loralab.training.describe import Describe
    from loralab.training.fallback import Fallback
    from loralab.training.memory import memory_advice
    from loralab.training.module import LoraModule
    from loralab.training.resume import choose
    from loralab.training.room import room_problems
    from loralab.training.signature import signature
    from loralab.training.state import States

    settings, side_work = values(cfg), SideWork()
    with Record(folder, overrides) as record, memory_advice(settings):
        data = instantiate(cfg.data, _partial_=False, seed=cfg.seed)  # before a model is loaded: it may find mistakes
        print(f"loading   {cfg.model.get('base') or choices.get('model')}", flush=True)
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
        fallback = Fallback(folder, side_work.tell)
        describe = Describe(settings, recipe(settings, choices), family, adapters, data)
        output = instantiate(cfg.output)(fallback=fallback, describe=describe)
        states = States(folder / "states", fallback)
        given = {"output": output, "run_folder": folder, "settings": settings, "states": states}
        trainer = instantiate(cfg.trainer)(
            callbacks=[
                instantiate(cfg.health)(output=output, states=states),
                *_callbacks(cfg.callbacks, side_work, **given),
            ],
            logger=_loggers(cfg.get("logger"), side_work, folder, overrides) or False,
            default_root_dir=folder,
        )
        states.signature = signature(settings, family, adapters, data.plan, trainer.world_size)
        resume = choose(cfg.resume, [Path(cfg.resume_root), folder], states.signature, cfg.resume_force)
        steps, epochs = length(trainer, data.summary()["batches"])
        left = 1 - resume.state.step / max(1, steps) if resume else 1
        if problems := list(room_problems(settings, adapters, folder, int(left * steps), int(left * epochs))):
            raise UserError(*problems)
        record.add(resumed=resume and str(resume.state.path))
        print(opening(module, data, trainer, output), flush=True)
        _fit(trainer, module, data, resume)
        interrupted = signals.received() or (signal.SIGTERM if module.interrupted else None)
        status = "interrupted" if interrupted else "finished with errors" if side_work.errors else "finished"
        facts = ending(module, data, trainer, output)
        record.add(**facts, status=status, errors=list(side_work.errors.values()))
        if record.unwritten and status == "finished":
            record.facts["status"] = "finished with errors"
        print(closing(record.facts, folder), flush=True)
        if interrupted:
            raise signals.Interrupted(interrupted)
        return record.facts


def _fit(trainer: Trainer, module: LoraModule, data: DataModule, resume: Resume | None) -> None:
    """Trains, from the start or from a state."""
    if resume:
        from loralab.callbacks.resumed import Resumed

        data.resume(resume.state.epoch, resume.state.batch)
        trainer.callbacks.append(Resumed(resume))  # type: ignore[attr-defined]
    try:
        trainer.fit(module, data, ckpt_path=resume and resume.state.file, weights_only=True)
    except signals.Interrupted:
        if hasattr(trainer.strategy.launcher, "kill"):  # it started the processes of the other devices
            trainer.strategy.launcher.kill(signal.SIGTERM)  # type: ignore[union-attr]
        raise


def instantiate(node: Any, **given: Any) -> Any:
    """Builds a node from plain lists and dicts, never config nodes; a UserError is raised as such, not wrapped."""
    try:
        return hydra_instantiate(node, _convert_="all", **given)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def _callbacks(nodes: DictConfig, side_work: SideWork, **given: Any) -> list[Callback]:
    """The enabled callbacks; each gets those of the run's own objects that its constructor takes."""
    built = []
    for name, node in (nodes or {}).items():
        if node is None or not node.get("enabled", True):
            continue
        settings = {key: value for key, value in node.items() if key != "enabled"}
        callback = instantiate(settings)
        asked = {key: value for key, value in given.items() if key in (parameters(node["_target_"]) or {})}
        built.append(side_work.callback(str(name), callback(**asked) if node.get("_partial_") else callback))
    return built


def _loggers(nodes: DictConfig | None, side_work: SideWork, folder: Path, overrides: list[str]) -> list[Logger]:
    """The loggers, which write into the run's folder, or into one named after it in the user's `save_dir`."""
    built = []
    own = sweep.own_of_run(overrides)
    for name, node in (nodes or {}).items():
        if node is not None:
            place = placed(node, folder, own, sweep.folder())
            built.append(side_work.logger(str(name), partial(instantiate, node, **place)))
    return [logger for logger in built if logger is not None]


def _refused(error: UserError) -> int:
    """Prints the problems of a UserError; returns the exit code."""
    count = f"{len(error.problems)} things" if len(error.problems) > 1 else "one thing"
    print(f"loralab: {count} to change first\n", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem}", file=sys.stderr)
    return 1
