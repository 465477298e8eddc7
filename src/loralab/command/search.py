"""A search: Optuna chooses the points of a sweep by the validation loss, or another metric, of earlier ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from loralab import signals
from loralab.checks.metrics import VALIDATION, metrics
from loralab.command.overrides import parse
from loralab.errors import Problem, user_error
from loralab.packages import missing
from loralab.schema.compose import values
from loralab.schema.constructors import misfits, parameters
from loralab.schema.nearest import did_you_mean
from loralab.schema.ranges import AtLeastOne
from loralab.schema.tree import Tree
from loralab.scorers.scores import DIVERSITY, IMAGES, PROMPT, SCORES
from loralab.training.study import FILE, StoredStudy
from loralab.writing import atomic_path

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution

METRIC = "metric"
"""The setting of what a search goes by, and the attribute of its study."""


class Search(Sweeper):
    """Runs `n_trials` points, each with `seeds` seeds; the mean of what they return is minimised, of a score maximised.

    The study is kept in the sweep's folder: a search that was interrupted goes on there, with what it had begun.
    """

    def __init__(
        self,
        n_trials: AtLeastOne = 20,
        seeds: AtLeastOne = 1,
        n_jobs: AtLeastOne = 1,
        metric: str | None = None,
        sampler: Any = None,
        pruner: Any = None,
        params: dict[str, str] | None = None,
    ) -> None:
        self.n_trials, self.seeds, self.n_jobs = n_trials, seeds, n_jobs if seeds == 1 else 1
        self.metric = metric
        self.sampler, self.pruner, self.params = sampler, pruner, params or {}
        self.config: DictConfig
        self.launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        import optuna
        from optuna.trial import TrialState

        given = {o.get_key_element(): o for o in parse([*(f"{k}={v}" for k, v in self.params.items()), *arguments])[0]}
        space = {key: distribution(o) for key, o in given.items() if o.is_sweep_override()}
        fixed = [o.input_line or "" for o in given.values() if not o.is_sweep_override()]
        if self.seeds > 1 and "seed" in space:
            raise user_error("seed", "is both searched and repeated", "remove one: seed=… or hydra.sweeper.seeds")
        folder = Path(self.config.hydra.sweep.dir).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        direction = "maximize" if self.metric in SCORES else "minimize"
        stored = StoredStudy(folder / FILE, self.sampler, self.pruner or optuna.pruners.NopPruner(), direction)
        study = stored.study
        self._keep_to_its_metric(study)
        if study.trials:
            study.sampler.reseed_rng()  # its seed would choose the same points again
        if self.pruner and self.metric not in (None, VALIDATION):
            print(
                f"note      hydra.sweeper.pruner has no effect: {self.metric} is only known after training", flush=True
            )
        for begun in study.get_trials(states=[TrialState.RUNNING]):  # by an earlier process, which did not end them
            self._run(study, [stored.trial(begun.number)], fixed)
        while (left := self.n_trials - len(study.trials)) > 0:
            self._run(study, [study.ask(space) for _ in range(min(left, self.n_jobs))], fixed)
        _save_best(study, folder)

    def _keep_to_its_metric(self, study: Study) -> None:
        """Raises a UserError where the study goes by another metric."""
        before = study.user_attrs.get(METRIC) if study.trials else self.metric
        if before != self.metric:
            found = f"the search in this folder goes by {before or 'the default'}, not {self.metric or 'the default'}"
            raise user_error(f"hydra.sweeper.{METRIC}", found, "choose another folder: hydra.sweep.dir=FOLDER")
        study.set_user_attr(METRIC, self.metric)

    def _run(self, study: Study, trials: Sequence[Trial], fixed: list[str]) -> None:
        """Runs some trials, and the further seeds of one that is worth it."""
        points = [[*fixed, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
        first = trials[0].number * self.seeds
        reporting = [[*p, f"+hydra.sweeper.trial={t.number}"] for p, t in zip(points, trials, strict=True)]
        values = self._launch(reporting, first)
        for point, trial, value in zip(points, trials, values, strict=True):
            step = study.trials[trial.number].user_attrs.get("pruned")
            if step is None and self.seeds > 1:
                value = mean([value, *self._launch(self._further_seeds(point), first + 1)])
            _tell(study, trial, value, is_pruned=step is not None)

    def _further_seeds(self, point: list[str]) -> list[list[str]]:
        seed = next((int(o.partition("=")[2]) for o in point if o.startswith("seed=")), 0)
        others = [o for o in point if not o.startswith("seed=")]
        return [[*others, f"seed={seed + more}"] for more in range(1, self.seeds)]

    def _launch(self, points: list[list[str]], number: int) -> list[float | None]:
        ended = self.launcher.launch(points, initial_job_idx=number)
        signals.check()  # runs in other processes end, and only these know of it
        return [done.return_value for done in ended]


def search_problems(node: DictConfig, tree: Tree) -> Iterator[Problem]:
    """Problems of the settings of this search (`hydra.sweeper`), and of Optuna's sampler and pruner.

    tree: the configuration of its first point.
    """
    if not str(node.get("_target_")).startswith("hydra_plugins.loralab_search."):
        return
    if find_spec("optuna") is None:
        yield from missing("hydra/sweeper", "optuna")
        return
    target, given = f"{Search.__module__}.{Search.__name__}", values(node)
    known = parameters(target) or {}
    for key in given.keys() - known.keys() - {"_target_"}:
        valid = ", ".join(known)
        yield Problem(f"hydra.sweeper.{key}", "unknown setting", did_you_mean(key, known) or f"valid: {valid}")
    yield from misfits("hydra.sweeper", target, given)
    yield from _metric_problems(given.get(METRIC), tree)
    for part, module in (("sampler", "optuna.samplers."), ("pruner", "optuna.pruners.")):
        if (settings := node.get(part)) and str(settings.get("_target_")).startswith(module):
            try:
                instantiate(settings)
            except InstantiationException as error:
                why = str(error.__cause__ or error).partition("\n")[0]
                yield Problem(f"hydra.sweeper.{part}", why, f"see {settings['_target_']} in Optuna's documentation")


def _metric_problems(metric: Any, tree: Tree) -> Iterator[Problem]:
    """Problems of a metric that the runs will not have."""
    if not isinstance(metric, str) or metric in (available := [*metrics(tree)]):
        return
    scorer, seeds = "report.scorer=FOLDER of a CLIP model", "callbacks.samples.seeds=4"
    needed = {VALIDATION: "data/validation=split", IMAGES: scorer, PROMPT: scorer, DIVERSITY: f"{scorer} and {seeds}"}
    remedy = f"valid: {', '.join(available)}" + (f"; {metric} needs {needed[metric]}" if metric in needed else "")
    yield Problem(f"hydra.sweeper.{METRIC}", f"the runs will not have the metric '{metric}'", remedy)


def distribution(override: Override) -> BaseDistribution:
    """Optuna's distribution for a sweep in Hydra's grammar."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None
        assert sweep.end is not None
        is_whole = isinstance(sweep.start, int) and isinstance(sweep.end, int)
        kind = IntDistribution if is_whole else FloatDistribution
        return kind(sweep.start, sweep.end, log="log" in sweep.tags)  # type: ignore[arg-type]
    if isinstance(sweep, RangeSweep) and not sweep.shuffle:
        values = list(sweep.range())
        if all(isinstance(value, int) for value in values):
            return IntDistribution(min(values), max(values), step=abs(int(sweep.step)))  # type: ignore[arg-type]
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def mean(values: Sequence[float | None]) -> float | None:
    """Of the runs that have a value; None where none has, infinite, as bad as can be, where one diverged."""
    known = [value for value in values if value is not None]
    return next((value for value in known if not math.isfinite(value)), fmean(known)) if known else None


def _tell(study: Study, trial: Trial, value: float | None, is_pruned: bool) -> None:
    from optuna.trial import TrialState

    if value is None:
        study.tell(trial, state=TrialState.FAIL)
    elif is_pruned:
        study.tell(trial, state=TrialState.PRUNED)
    else:
        study.tell(trial, value)


def _save_best(study: Study, folder: Path) -> None:
    """The best point, under the names that Hydra's own Optuna plugin uses."""
    from optuna.trial import TrialState

    if not any(math.isfinite(trial.value or 0) for trial in study.get_trials(states=[TrialState.COMPLETE])):
        return
    best = {"name": "optuna", "best_evaluated_params": study.best_params, "best_evaluated_value": study.best_value}
    with atomic_path(folder / "optimization_results.yaml", "hydra.sweep.dir") as beside:
        OmegaConf.save(OmegaConf.create(best), beside)
