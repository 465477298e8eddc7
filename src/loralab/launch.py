"""The command `train`: checks the command line, then lets Hydra run the task, once or for each point of a sweep.

Nothing heavy is imported before a configuration is known to be valid.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from loralab import console, imports, signals
from loralab.command import flags, many, processes, start, sweep
from loralab.command.many_runs import many_runs
from loralab.command.memory_plan import with_plan
from loralab.command.menu import menu
from loralab.command.prepare import prepare, refuse
from loralab.command.rerun import rerun
from loralab.command.run_folder import (
    RunFolder,
    claim,
    folder_problems,
    planned,
    refuse_to_overwrite,
    take,
)
from loralab.errors import Diverged, UserError, user_error
from loralab.gpus import take_gpu
from loralab.importers.save import save as save_settings
from loralab.imports import importing
from loralab.models.registry import of_model
from loralab.report import resumed_sweep
from loralab.report.loggers import finish
from loralab.report.record import record_failure
from loralab.report.run import to_optimise, worst
from loralab.report.sweep_table import Runs, announced
from loralab.schema.compose import Composed, Places, choices_of, composed_by_hydra, know_places, use_sources, values
from loralab.schema.settings import written
from loralab.shared import Shared
from loralab.stages import Stages, process_start
from loralab.writing import release

if TYPE_CHECKING:
    from loralab.memory.plan import Plan

Look = Callable[[dict[str, Any]], object]
"""What sees the record of a run."""


SHOWING = {"cfg", "info", "hydra_help", "dry_run"}
"""Flags that show something in place of training."""


def main(argv: list[str] | None = None) -> None:
    """`python train.py …`: checks the command line, then lets Hydra run the task once or for each point of a sweep."""
    stages = Stages(process_start() if argv is None else time.time())
    imports.is_own_process = argv is None
    with signals.listening(for_good=argv is None), console.kept():
        try:
            sys.exit(_main(sys.argv[1:] if argv is None else argv, stages))
        except signals.Interrupted as interrupted:
            if console.is_first():
                print(f"interrupted by {interrupted}", file=sys.stderr)
            sys.exit(interrupted.code)


def _main(argv: list[str], stages: Stages) -> int:
    """Runs the command line; returns the exit code."""
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a bug shows its whole traceback
    if (cfg := processes.handed()) is not None:
        _start(cfg, None, stages=stages)
        return 0
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
            return _prepared(given, overrides, stages)
    except UserError as error:
        return _refused(error)
    return 0


def _prepared(given: flags.Flags, overrides: list[str], stages: Stages) -> int:
    """Checks the overrides, then lets Hydra do its work; returns the exit code."""
    if (of_sweep := resumed_sweep.expanded(overrides)) is not None:
        given, overrides = {**given, "multirun": True}, of_sweep
    prepared = prepare(overrides, "multirun" in given)
    if prepared.swept is not None and "TORCHELASTIC_RUN_ID" in os.environ:
        remedy = "start the sweep without it: each of its runs starts a process for each of trainer.devices"
        raise user_error("torchrun", "cannot start a sweep", remedy)
    plan = None
    if SHOWING.isdisjoint(given) and not many.run_folder(prepared.overrides):
        plan, prepared = with_plan(prepared, overrides, "multirun" in given)
    overrides, swept = prepared.overrides, prepared.swept
    composed = prepared.composed
    place = planned(composed, swept is not None)
    if swept is not None and place and place.is_new and composed.cfg.resume == "auto":
        there = resumed_sweep.started(overrides)
        place = place._replace(path=there, run=there / "0", config=None, is_new=False) if there else place
    if place and (problems := list(folder_problems(composed.tree, place))):
        raise UserError(*problems)
    for warning in prepared.warnings:
        print(f"note: {warning}", file=sys.stderr)
    if "dry_run" in given:
        return _dry_run(composed, swept, place, overrides)
    if folder := many.run_folder(overrides):
        return many.run(folder, overrides, flags.spelt(given))
    if swept is not None and "cfg" in given:
        _show_points(given, swept)
    elif not SHOWING.isdisjoint(given):
        _hydra(given, overrides)
    else:
        folder = claim(place, is_resumed=composed.cfg.resume is not None) if place else None
        claimed = [f"{place.setting}={written(str(folder))}"] if place else []
        if swept is not None and folder:
            with many_runs(folder):
                return _sweep(folder, [*overrides, *claimed], composed.cfg, swept, plan)
        _start(composed.cfg, folder, stages=stages, shared=Shared(plan))
    return 0


def _start(cfg: DictConfig, folder: Path | None, **given: Any) -> None:
    """A single run, of which this may be one of several processes: the first of them writes."""
    run = partial(task, is_checked=True, **given)
    if console.is_first():
        start.run(run, cfg, folder)
        return
    with TemporaryDirectory(prefix="loralab-") as own:
        start.run(run, cfg, Path(own), is_trusted=False)


def _dry_run(composed: Composed, swept: list[Override] | None, place: RunFolder | None, overrides: list[str]) -> int:
    """Shows what would be trained, and writes nothing."""
    if many.run_folder(overrides):
        raise user_error(flags.DRY_RUN, f"has no effect with {many.RUN_FOLDER}", "give one file: settings.load=FILE")
    from loralab.tools import dry_run  # plans the data

    dry_run.show(composed, swept, 1 if swept is None else _total(swept), place and place.path)
    return 0


def _total(swept: list[Override]) -> int:
    """The number of runs of a sweep."""
    return (sweep.is_search() and sweep.count_of_search()) or sweep.count(swept)


def _show_points(given: flags.Flags, swept: list[Override]) -> None:
    """Prints the configuration of each point of a sweep; of a search, that of one possible point."""
    for number, point in enumerate(sweep.points(swept), 1):
        print(f"# run {number}: {' '.join(sweep.own(point, swept))}")
        _hydra({name: value for name, value in given.items() if name != "multirun"}, [*point, "hydra.mode=RUN"])


def _sweep(folder: Path, overrides: list[str], cfg: DictConfig, swept: list[Override], plan: Plan | None) -> int:
    """A run for each point, then a table of them; returns the exit code, 1 if one failed."""
    search, started = sweep.is_search(), time.time()
    total = _total(swept)
    done, left = resumed_sweep.unfinished(folder, swept) if cfg.resume == "auto" and not search else ([], [])
    expected = 0 if cfg.settings.save_only or search else total  # a search may need fewer
    runs = Runs(folder, swept, 0.0 if cfg.resume == "auto" else started, expected, sweep.metric())
    point, words = partial(task, shared=Shared(plan), sweeper=os.getpid()), [*overrides, announced(swept, total)]
    try:
        if done:
            print(resumed_sweep.announced_as_done(done, swept, folder, sweep.count(swept)), flush=True)
        with signals.relayed(_to_workers) if "joblib" in str(cfg.hydra.launcher.get("_target_")) else nullcontext():
            start.points(point, words, left) if done else start.sweep(point, words)
    finally:
        print(runs.table(), flush=True)
    signals.check()
    if runs.runs:
        from loralab.report.report import of_sweep  # reads curves and pictures: not before there are any

        of_sweep(folder, sweep.metric())
    return 1 if runs.failed(search) else 0


def _hydra(given: flags.Flags, overrides: list[str]) -> None:
    """Lets Hydra show what these flags ask for."""
    know_places()
    sys.argv[1:] = [*_words(given), *overrides]
    hydra.main(config_path=str(Places.main), config_name=Places.name, version_base="1.3")(task)()


def _words(given: flags.Flags) -> list[str]:
    return flags.spelt({name: value for name, value in given.items() if name not in flags.OF_PLACES})


def task(
    cfg: DictConfig,
    is_checked: bool = False,
    looks: tuple[Look, ...] = (),
    shared: Shared | None = None,
    sweeper: int | None = None,
    stages: Stages | None = None,
) -> float | None:
    """One run in the folder that Hydra made for it; returns the value that a sweeper optimises.

    is_checked: whether its settings are; those of a sweep's runs are not, which a sweeper may have chosen.
    looks: called with the facts of the run's record when it is about to train.
    shared: what the runs of a sweep hand on to each other.
    sweeper: the process of the sweep; where this is another one, it trains beside others, each on a GPU of its own.
    stages: of its start; None: it begins now.
    A single run that fails ends the process with exit code 1. A failed point of a sweep is reported and recorded, and
    the sweep continues: its value is None, or infinite if the training diverged.
    """
    if os.getpid() in _interrupted:
        return None
    context = HydraConfig.get()
    use_sources(context)
    folder, overrides, choices = Path(context.runtime.output_dir), list(context.overrides.task), choices_of(context)
    facts: dict[str, Any] = {}
    stages = stages or Stages(time.time())
    log = None if cfg.settings.save_only or not console.is_first() else folder / "train.log"
    with signals.listening(), console.kept(log):  # also in the processes of a parallel sweep
        try:
            if sweeper not in (None, os.getpid()):
                _take_gpu(cfg)
            if not is_checked:
                refuse(composed_by_hydra(cfg, context))
            is_resumed = sweep.is_multirun() and cfg.resume == "auto"
            if is_resumed and (before := resumed_sweep.done_before(folder, overrides)):
                facts = before.facts
                print(f"{before.how} earlier", flush=True)
            else:
                facts = _run(cfg, folder, overrides, choices, shared or Shared(), stages, *looks)
        except signals.Interrupted:
            if sweeper in (None, os.getpid()):
                raise
            _interrupted.append(os.getpid())  # joblib would kill the others, which save their states
            facts = {"status": "interrupted"}
        except Exception as error:  # here, so that the log has it
            _refused(error) if isinstance(error, UserError) else traceback.print_exc()
            record_failure(folder, overrides, error)
            facts = {"status": "diverged" if isinstance(error, Diverged) else "failed"}
        finally:
            finish(exit_code=int(facts.get("status") != "finished"))
            release(folder)
    if not (sweep.is_multirun() and console.is_first()) and facts.get("status", "finished") != "finished":
        sys.exit(1)
    metric = sweep.metric()
    return worst(metric) if facts.get("status") == "diverged" else to_optimise(facts, metric)


_interrupted: list[int] = []
"""This process of a parallel sweep, where a signal has ended a run: it begins no other."""


def _to_workers(number: int) -> None:
    """Passes a signal on to the processes of a parallel sweep, of which each run saves its state."""
    for pid in filter(None, (worker.pid for worker in multiprocessing.active_children())):
        with suppress(OSError):
            os.kill(pid, number)


def _take_gpu(cfg: DictConfig) -> None:
    """Gives a run that is to train on one GPU one that no other process of its sweep has, where there are several."""
    there = sweep.folder() if str(cfg.trainer.devices) in ("1", "auto") and cfg.trainer.accelerator != "cpu" else None
    if there and (name := take_gpu(there / ".gpus")):
        print(f"GPU       {name}", flush=True)


def _run(
    cfg: DictConfig,
    folder: Path,
    overrides: list[str],
    choices: dict[str, Any],
    shared: Shared,
    stages: Stages,
    *looks: Look,
) -> dict[str, Any]:
    """Trains in a folder, or only saves the settings; returns the facts of the training."""
    take(folder, cfg.resume is not None)
    if console.is_first():
        refuse_to_overwrite(values(cfg.output), folder)
    if cfg.settings.save_folder and console.is_first():
        print("settings written:", save_settings(values(cfg), choices, Path(cfg.settings.save_folder)))
    return {} if cfg.settings.save_only else _trained(cfg, folder, overrides, choices, shared, stages, *looks)


def _trained(
    cfg: DictConfig,
    folder: Path,
    overrides: list[str],
    choices: dict[str, Any],
    shared: Shared,
    stages: Stages,
    *looks: Look,
) -> dict[str, Any]:
    """The facts of a training; only this imports what trains."""
    stages.end("settings")
    # what is there of an earlier run of a sweep is to be collected
    with importing() if "loralab.run" not in sys.modules else nullcontext():
        from loralab.training.quiet import quiet

        quiet()
        from loralab.models.libraries import import_classes

        if family := of_model(values(cfg.model)):
            # code of the user's own might use it all
            import_classes(family, whole=bool(cfg.allow) or not imports.is_own_process)
        from loralab.run import train
    stages.end("imports")
    return train(cfg, folder, overrides, choices, shared, stages, *looks)


def _refused(error: UserError) -> int:
    """Prints the problems of a UserError; returns the exit code."""
    count = f"{len(error.problems)} things" if len(error.problems) > 1 else "one thing"
    print(f"loralab: {count} to change first\n", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem}", file=sys.stderr)
    return 1
