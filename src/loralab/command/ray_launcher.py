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

from loralab.errors import Problem
from loralab.packages import missing
from loralab.schema.compose import values
from loralab.schema.constructors import misfits
from loralab.schema.ranges import AtLeastOne, NonNegative


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
        from ray.exceptions import RayError

        setup_globals()
        ray.init(**self.place, ignore_reinit_error=True)
        run = ray.remote(**self.needs)(_run)
        started = [
            run.remote(number, list(overrides), *self.given, Singleton.get_state())
            for number, overrides in enumerate(job_overrides, initial_job_idx)
        ]
        ended = []
        for number, task in enumerate(started, initial_job_idx):
            try:
                ended.append(ray.get(task))
            except RayError as error:  # its process has died; its record says so
                print(f"error: run {number + 1}: {type(error).__name__}", file=sys.stderr)
                ended.append(JobReturn(status=JobStatus.COMPLETED))
        return ended


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
