"""The runs of a sweep as tasks of Ray, on this machine or a cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from loralab import signals
from loralab.errors import Problem
from loralab.packages import missing
from loralab.schema.compose import values
from loralab.schema.constructors import misfits
from loralab.schema.ranges import AtLeastOne, NonNegative

LOOK = 0.2
"""Seconds between two looks whether a signal was received."""


class RayLauncher(Launcher):
    """Runs `n_jobs` at once on this machine, or on the cluster at `address` as many as have room.

    num_cpus, num_gpus: what a run needs, by which Ray also sets how many threads it uses, and the GPUs that it sees.
    """

    def __init__(
        self,
        address: str | None = None,
        n_jobs: AtLeastOne = 2,
        num_cpus: AtLeastOne | None = None,
        num_gpus: NonNegative | None = None,
    ) -> None:
        cores = num_cpus or (1 if address else max(1, (os.cpu_count() or 1) // n_jobs))
        self.place: dict[str, Any] = {"address": address} if address else {"num_cpus": n_jobs * cores}
        # a run that Ray started again would find the folder of the first
        self.needs: dict[str, Any] = {"num_cpus": cores, "num_gpus": num_gpus, "max_retries": 0}
        self.given: tuple[HydraContext, TaskFunction, DictConfig]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.given = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        import ray
        from ray.exceptions import RayError, TaskCancelledError

        setup_globals()
        ray.init(**self.place, ignore_reinit_error=True)
        signals.be_patient(None)  # Ray has installed a handler of its own
        run = ray.remote(**self.needs)(_run)
        started = [
            run.remote(number, list(overrides), *self.given, Singleton.get_state())
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        _wait(started)
        ended = []
        for number, task in enumerate(started, initial_job_idx):
            try:
                ended.append(ray.get(task))
            except TaskCancelledError:
                ended.append(JobReturn(status=JobStatus.COMPLETED))
            except RayError as error:  # its process has died; its record says so
                print(f"error: run {number + 1}: {type(error).__name__}", file=sys.stderr)
                ended.append(JobReturn(status=JobStatus.COMPLETED))
        return ended


def _wait(tasks: list[Any]) -> None:
    """Until all have ended. The first signal ends the runs, which save their states, and no other begins; a second one
    kills those that are left."""
    import ray

    received: list[int] = []
    passed_on = 0
    with signals.relayed(received.append):
        while tasks:
            _, tasks = ray.wait(tasks, num_returns=len(tasks), timeout=LOOK)
            if len(received) > passed_on:
                passed_on = len(received)
                for task in tasks:
                    ray.cancel(task, force=passed_on > 1)  # without force, as Ctrl-C in the process of the run


def launcher_problems(node: DictConfig) -> Iterator[Problem]:
    """Problems of the settings of this launcher (`hydra.launcher`)."""
    if str(node.get("_target_")).startswith("hydra_plugins.loralab_ray."):
        if find_spec("ray") is None:
            yield from missing("hydra/launcher", "ray")
        yield from misfits("hydra.launcher", f"{RayLauncher.__module__}.{RayLauncher.__name__}", values(node))


def _run(
    number: int, overrides: list[str], context: HydraContext, task: TaskFunction, config: DictConfig, singletons: Any
) -> JobReturn:
    """One run, in a process of Ray's."""
    setup_globals()
    Singleton.set_state(singletons)
    cfg = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(cfg):
        cfg.hydra.job.id, cfg.hydra.job.num = f"{cfg.hydra.job.name}_{number}", number
    HydraConfig.instance().set_config(cfg)
    return run_job(task, cfg, "hydra.sweep.dir", "hydra.sweep.subdir", context)
