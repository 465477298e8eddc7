"""Every option of conf/ composes, passes the check, and builds what it is for, with the smallest models."""

import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

from loralab import run
from loralab.adapters.inject import inject
from loralab.callbacks.side_work import SideWork
from loralab.command.prepare import checked
from loralab.data.module import DataModule
from loralab.errors import UserError
from loralab.report.loggers import finish
from loralab.schema.compose import group_options, values, without_hydra
from loralab.training.fallback import Fallback
from loralab.training.run_state import RunState
from loralab.training.state import States

SHAPES = Path(run.__file__).parent / "assets" / "shapes" / "train"
OPTIONS = [(group, option) for group, options in group_options().items() for option in options]
RECIPES = ("experiment", "debug", "sweep")
OF_OTHER_FAMILIES = ("sd2", "sd2_v", "sdxl", "sdxl_flow", "zimage", "zimage_turbo", "anima")
"""Models whose constructors are called in tests of their families, for bases that no test has in small."""
NOT_HERE = ("no GPU found on this machine", "needs a GPU", "not installed", "every GPU")
PARTS = ("adapter", "targets", "objective", "optimizer", "scheduler", "callbacks", "logger", "data")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch):
    """What would log to a server writes to the disk, and ends with the test."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    finish(0)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_builds(group: str, option: str, random_family, random_base: Path, tmp_path: Path) -> None:
    overrides = [f"data.cache_folder={tmp_path / 'cache'}", f"{group}={option}"]
    overrides += [] if option == "shapes" else [f"data.folder={SHAPES}"]
    overrides += [] if group == "data" else ["data=folder"]
    overrides += [f"model.base={random_base}"] if option == "sd15" else []
    overrides += ["model.base=owner/name"] if option == "sdxl_flow" else []
    overrides += ["objective.positive=large"] if option == "slider" else []
    overrides += ["data/validation=split"] if option == "plateau" else []
    overrides += ["model.prediction_type=v_prediction"] if option == "scaled_v" else []
    overrides += ["model=tiny_sdxl_flow"] if option in ("cosmap", "sigma_sqrt") else []
    cfg, problems = composed(overrides)
    if problems:
        assert [words for problem in problems for words in NOT_HERE if words in problem.found], problems
        pytest.skip(str(problems[0]))
    if option in OF_OTHER_FAMILIES:
        pytest.skip("built at full size: tests/models/test_full_size.py")
    for name in PARTS if group in RECIPES else [group.split("/")[0]]:
        assert build(name, cfg, random_family, tmp_path) is not None


def composed(overrides: list[str]):
    """The checked configuration, or the problems that it has."""
    try:
        return without_hydra(checked(overrides).cfg), ()
    except UserError as error:
        return None, error.problems


def build(name: str, cfg, family, folder: Path):
    """What the node of a group makes, as a run makes it."""
    node = cfg[name]
    if name == "data":
        data = run.instantiate(node, _partial_=False, seed=0)
        data.attach(family)
        assert isinstance(data, DataModule)
        return data
    if name == "callbacks":
        fallback = Fallback(folder, print)
        output = run.instantiate(cfg.output)(fallback=fallback, describe=lambda epoch, step: {})
        state = RunState(folder, values(cfg))
        return run.callbacks(cfg, SideWork(), state, output, States(state, fallback))
    if name == "logger":
        with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
            warnings.simplefilter("ignore")  # of mlflow's database
            patch.chdir(folder)  # where mlflow.db is made
            made = run.loggers(node, SideWork(), RunState(folder, values(cfg)))
        assert len(made) == len(node), "one could not be opened"
        return made
    built = run.instantiate(node)
    if name in ("adapter", "targets"):
        adapters = inject(family, run.instantiate(cfg.adapter), run.instantiate(cfg.targets), 0)
        assert len(adapters)
        adapters.remove()
    if name == "optimizer":
        return one_step(built, cfg)
    if name == "scheduler":
        return built(one_step(run.instantiate(cfg.optimizer), cfg), total_steps=10)
    if name == "trainer":
        return built(callbacks=[], logger=[], default_root_dir=folder)
    assert not isinstance(built, partial)
    return built


def one_step(make, cfg) -> torch.optim.Optimizer:
    """The optimizer of a group, after a step."""
    parameter = torch.nn.Parameter(torch.ones(8, 8))
    optimizer = make([{"params": [parameter], "lr": cfg.optimizer.lr}])
    if not getattr(optimizer, "is_paged", False):  # on a CPU it only says that it cannot
        parameter.grad = torch.ones_like(parameter)
        getattr(optimizer, "train", lambda: None)()
        optimizer.step()
        assert not torch.equal(parameter, torch.ones(8, 8))
    return optimizer
