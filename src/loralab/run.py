"""The composition root: the only place where a configuration becomes objects."""

from __future__ import annotations

import inspect
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate as hydra_instantiate
from lightning import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from loralab import signals
from loralab.adapters.inject import inject
from loralab.callbacks.compiled import Compiled
from loralab.callbacks.cuda_graphs import CudaGraphs
from loralab.callbacks.memory_limit import MemoryLimit
from loralab.callbacks.progress_file import ProgressFile
from loralab.callbacks.pruning import Pruning
from loralab.callbacks.resumed import Resumed
from loralab.callbacks.side_work import SideWork
from loralab.callbacks.start_up import StartUp
from loralab.command import processes, sweep
from loralab.console import is_first
from loralab.data.module import DataModule
from loralab.diffusion.tag_rarity import Tags
from loralab.errors import UserError, user_error
from loralab.importers.recipe import recipe
from loralab.memory.plan import compared
from loralab.models.family import Family
from loralab.ranks import Ranks
from loralab.report.gather import ROOTS
from loralab.report.loggers import alone, placed
from loralab.report.record import Record
from loralab.report.reuse import earlier, hindrance, take_over, told
from loralab.report.scoring import Scoring
from loralab.report.summary import closing, ending, length, opening
from loralab.schema.compose import values
from loralab.shared import Shared, base_of
from loralab.stages import Stages
from loralab.training import heap
from loralab.training.describe import Describe
from loralab.training.fallback import Fallback
from loralab.training.memory_advice import memory_advice
from loralab.training.module import LoraModule
from loralab.training.output import Output
from loralab.training.remote_states import fetched, newest
from loralab.training.resume import Resume, choose
from loralab.training.room import room_problems
from loralab.training.run_state import RunState
from loralab.training.signature import common, digest, inputs, signature
from loralab.training.speed import Speed
from loralab.training.state import States, versions
from loralab.training.study import FILE
from loralab.training.uploads import Uploads
from loralab.urls import is_url, plain

Look = Callable[[dict[str, Any]], object]
"""What sees the record of a run."""


def train(
    cfg: DictConfig,
    folder: Path,
    overrides: list[str],
    choices: dict[str, Any],
    shared: Shared,
    stages: Stages,
    *looks: Look,
) -> dict[str, Any]:
    """Builds the objects and trains; returns the facts that it records in `folder`/run.json.

    shared: what the runs of a sweep hand on to each other. stages: of its start, the first of which have ended.
    looks: called with these facts before the first step.
    """
    run, side_work = RunState(folder, values(cfg), sweep.own_of_run(overrides), stages=stages), SideWork()
    with (
        Uploads(folder, cfg.output.get("folder")),
        Record(folder, overrides) as record,
        memory_advice(run.settings),
    ):
        if plan := shared.plan:
            heap.keep_small()
            record.add(memory=plan.facts(run.settings))
            print(plan.told(run.settings), flush=True)
        base = base_of(run.settings)
        cache = shared.take("cache", (base, run.settings["data"]), lambda: instantiate(cfg.data.cache))
        data = instantiate(cfg.data)(seed=cfg.seed, cache=cache)  # before a model is loaded: it may find mistakes
        stages.end("index")
        family = shared.take("base", base, lambda: _loaded(cfg, choices))
        stages.end("model")
        module = _module(cfg, family, data, run)
        fallback = Fallback(folder, side_work.tell)
        describe = Describe(run.settings, recipe(run.settings, choices), module.family, module.adapters, data)
        output = instantiate(cfg.output)(fallback=fallback, describe=describe)
        states = States(run, fallback)
        speed = instantiate(cfg.speed)
        limits = [MemoryLimit(plan.limit_gb)] if plan else []
        trainer = instantiate(cfg.trainer)(
            callbacks=[*callbacks(cfg, side_work, run, output, states), *_quickened(speed, record), *limits],
            logger=loggers(cfg.get("logger"), side_work, run) or False,
            default_root_dir=folder,
        )
        # the signature needs the number of devices, which the trainer knows, and comes before the first step
        run.signature = signature(run.settings, module.family, module.adapters, data.plan, trainer.world_size)
        record.add(speed=speed.apply(module, trainer))
        begun = _begin(cfg, record, trainer, module, data, output, looks) if is_first() else None
        with processes.started(trainer, cfg, run.is_ending), _joined(trainer, data, run):
            resume, is_taken_over = run.ranks.of_first(begun) or (None, False)
            if not is_taken_over:
                if run.settings["trainer"]["strategy"] == "fsdp" and trainer.world_size > 1:
                    record.add(shares=_shared_out(module, trainer))
                _fit(trainer, module, data, resume)
                _end(record, side_work, ending(module, data, trainer, output), run)
        module.adapters.remove()
        # bitsandbytes changes weights when they are first used
        if run.settings["model"].get("quantize") != "nf4" and not family.is_shared_out:
            shared.keep("base", base, family)
        shared.keep("cache", (base, run.settings["data"]), cache)
        return record.facts


def _quickened(speed: Speed, record: Record) -> Iterator[Callback]:
    """What has steps computed faster."""
    graphs = CudaGraphs()
    if speed.graphs:
        yield graphs
    if speed.compile:
        yield Compiled(record.add, graphs)


def _begin(
    cfg: DictConfig,
    record: Record,
    trainer: Trainer,
    module: LoraModule,
    data: DataModule,
    output: Output,
    looks: Sequence[Look],
) -> tuple[Resume | None, bool]:
    """What a run resumes from, and whether it has taken over an earlier one's result; says what it is going to do.

    Of several processes this is for the first: others may not see its disks.
    """
    run = module.run
    made_from = run.settings, module.family, module.adapters, data.plan
    record.add(signature=digest(run.signature), inputs=inputs(*made_from))
    wanted = fetched(cfg.resume, "resume") if is_url(cfg.resume) else cfg.resume
    roots = [Path(cfg.resume_root), run.folder]
    if wanted == "auto" and cfg.output.folder and is_url(url := plain(cfg.output.folder)):
        roots += newest(url, "output.folder", run.signature, roots)
    resume = choose(wanted, roots, run.signature, cfg.resume_force)
    _check_room(trainer, module, data, resume)
    record.add(resumed=resume and str(resume.state.path), resumed_with=resume.differing if resume else [])
    print(opening(module, data, trainer, output, record.facts["speed"]), flush=True)
    for look in looks:
        look(record.facts)
    run.stages.end("adapter")
    return resume, _is_taken_over(cfg, record, output, length(trainer, data.summary()["batches"])[0], run)


@contextmanager
def _joined(trainer: Trainer, data: DataModule, run: RunState) -> Iterator[None]:
    """Within it the processes of the run are connected, and have made sure that they are to do the same."""
    run.ranks = data.ranks = Ranks.join(trainer)
    try:
        run.ranks.agree(common(run.settings, run.signature) | versions())
        run.folder = run.ranks.of_first(run.folder)
        yield
    finally:
        run.ranks.leave()


def _is_taken_over(cfg: DictConfig, record: Record, output: Output, steps: int, run: RunState) -> bool:
    """Tells of an earlier run of the same signature; with `reuse`, takes over its result, where it is that of this
    run. steps: that this one would take."""
    roots = [Path(cfg.resume_root), *map(Path, ROOTS), *filter(None, [sweep.folder()])]
    other = earlier(roots, record.facts["signature"], run.folder)
    if other is None:
        return False
    why = hindrance(other, run.settings, steps) if cfg.reuse else None
    print(told(other, why), flush=True)
    if why or not cfg.reuse:
        return False
    record.add(**take_over(other, run.folder, output), status="finished", errors=[])
    print(closing(record.facts, run.folder), flush=True)
    return True


def _loaded(cfg: DictConfig, choices: dict[str, Any]) -> Family:
    print(f"loading   {cfg.model.get('base') or choices.get('model')}", flush=True)
    return instantiate(cfg.model)


def _module(cfg: DictConfig, family: Family, data: DataModule, run: RunState) -> LoraModule:
    """The model with its adapters and what trains them; plans the data, whose captions the model measures."""
    data.attach(family)
    adapters = inject(family, instantiate(cfg.adapter), instantiate(cfg.targets), cfg.seed)
    objective = instantiate(cfg.objective, _partial_=True)(tags=Tags(data.tag_counts(), data.tags_of))
    optimizer, scheduler = instantiate(cfg.optimizer), instantiate(cfg.scheduler)
    rates = {"lr": cfg.optimizer.lr, "seed": cfg.seed, "ema": instantiate(cfg.ema)}
    return LoraModule(family, adapters, objective, optimizer, scheduler, run=run, **rates)


def _check_room(trainer: Trainer, module: LoraModule, data: DataModule, resume: Resume | None) -> None:
    """Raises a UserError where the disks have no room for the files of what is left to train."""
    steps, epochs = length(trainer, data.summary()["batches"])
    left = 1 - resume.state.step / max(1, steps) if resume else 1
    given = module.run.settings, module.adapters, module.run.folder
    if problems := list(room_problems(*given, int(left * steps), int(left * epochs))):
        raise UserError(*problems)


def _shared_out(module: LoraModule, trainer: Trainer) -> dict[str, Any]:
    """Shares the frozen weights out between the devices; returns their bytes, and those that each rank keeps."""
    shares = module.family.share_out(trainer.strategy.root_device)
    each = module.run.ranks.gather(shares.own)
    if is_first():
        sizes = f"{max(each) / 2**30:.3g} of {shares.all / 2**30:.3g} GB of frozen weights"
        print(f"shared    {sizes} on each of {trainer.world_size} devices", flush=True)
    return {"bytes": shares.all, "bytes_of_each": each}


def _fit(trainer: Trainer, module: LoraModule, data: DataModule, resume: Resume | None) -> None:
    """Trains, from the start or from a state."""
    if resume:
        module.run.resumed_from = resume.state.path.parents[1]  # RUN/states/STEP
        data.resume(resume.state.epoch, resume.state.batch)
        trainer.callbacks.append(Resumed(resume))  # type: ignore[attr-defined]
    trainer.fit(module, data, ckpt_path=resume and resume.state.file, weights_only=True)


def _end(record: Record, side_work: SideWork, facts: dict[str, Any], run: RunState) -> None:
    """Records and prints how the training ended; raises Interrupted where a signal ended it."""
    interrupted = signals.received() or (signal.SIGTERM if run.interrupted else None)
    status = "interrupted" if interrupted else "finished with errors" if side_work.errors else "finished"
    record.add(**facts, status=status, errors=list(side_work.errors.values()))
    if memory := record.facts.get("memory"):
        record.add(memory={**memory, "measured_gb": facts["peak_memory_gb"]})
        print(compared(memory, facts["peak_memory_gb"]), flush=True)
    if record.unwritten and status == "finished":
        record.facts["status"] = "finished with errors"
    print(closing(record.facts, run.folder), flush=True)
    if interrupted:
        raise signals.Interrupted(interrupted)


def instantiate(node: Any, **given: Any) -> Any:
    """Builds a node from plain lists and dicts, never config nodes; a UserError is raised as such, not wrapped."""
    try:
        return hydra_instantiate(node, _convert_="all", **given)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        if missing := re.match(r"Error locating target '([^']*)'", str(error)):
            remedy = "check the name, and that its folder is in PYTHONPATH"
            raise user_error(f"_target_={missing[1]}", f"could not be imported: {error.__cause__}", remedy) from error
        raise


def callbacks(cfg: DictConfig, side_work: SideWork, *own: RunState | Output | States) -> list[Callback]:
    """The clock of the start, health, the enabled ones of the group `callbacks`, and those that write how far the run
    is and prune it.

    Each gets those of the run's own objects that its constructor has a parameter of the type of.
    """
    built = [StartUp(), _given(instantiate(cfg.health), own)]
    for name, node in (cfg.callbacks or {}).items():
        if node is not None and node.get("enabled", True):
            settings = {key: value for key, value in node.items() if key != "enabled"}
            built.append(side_work.callback(str(name), _given(instantiate(settings, _partial_=True), own)))
    if scorer := cfg.get("report", {}).get("scorer"):
        built.append(side_work.callback("scores", _given(partial(Scoring, scorer), own)))
    built.append(side_work.callback("progress_file", _given(partial(ProgressFile), own)))
    if (search := sweep.trial()) and (folder := sweep.folder()):
        built.append(side_work.callback("pruning", Pruning(search.trial, folder / FILE, instantiate(search.pruner))))
    return built


def _given(build: partial[Any], own: tuple[Any, ...]) -> Any:
    """Calls a constructor with those of the run's own objects whose types its parameters are annotated with."""
    by_type = {type(each).__name__: each for each in own}
    types = {name: _name(p.annotation) for name, p in inspect.signature(build.func).parameters.items()}
    return build(**{name: by_type[kind] for name, kind in types.items() if kind in by_type})


def _name(annotation: Any) -> str:
    """Of a type, also where annotations are kept as text."""
    return annotation.rpartition(".")[2] if isinstance(annotation, str) else getattr(annotation, "__name__", "")


def loggers(nodes: DictConfig | None, side_work: SideWork, run: RunState) -> list[Logger]:
    """The loggers, which write into the run's folder, or into one named after it in the user's `save_dir`."""
    built = []
    for name, node in (nodes or {}).items():
        if node is not None:
            place = placed(node, run, sweep.folder())
            built.append(side_work.logger(str(name), partial(_opened, node, place)))
    return [logger for logger in built if logger is not None]


def _opened(node: DictConfig, place: dict[str, Any]) -> Logger:
    with alone(node.get("tracking_uri")):
        logger = instantiate(node, **place)
        getattr(logger, "experiment", None)
        return logger
