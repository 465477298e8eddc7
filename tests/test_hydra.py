"""Hydra's own ways through the command: each of its flags, and sweeps written in each of its forms."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from pathlib import Path

import pytest
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from loralab import launch
from loralab.report.record import Record
from loralab.schema.compose import CONF, Places


@pytest.fixture(autouse=True)
def _as_before():
    """Puts back what Hydra's flags leave behind in a process: places, and loggers that speak."""
    loggers = [logging.getLogger(name) for name in (None, "hydra")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    Places.use()
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def trained(cfg, folder: Path, overrides: list[str], choices, *_: object) -> dict:
    """In the place of a training: its record."""
    with Record(folder, overrides) as record:
        record.add(loss=0.5)
    return record.facts


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture):
    """command(*words) gives the exit code and what was printed; no run is expected to train."""
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr("logging.raiseExceptions", False)  # Hydra's handlers keep the streams of tests before
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "_trained", trained)

    def start(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as stop:
            launch.main(list(words))
        told = capfd.readouterr()
        said = told.out + told.err
        assert "Traceback" not in said
        return int(stop.value.code or 0), said

    return start


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Folders of a user's own: added/ beside conf/, and whole/, a changed copy of it."""
    shutil.copytree(CONF, tmp_path / "whole")
    (tmp_path / "whole" / "train.yaml").write_text((CONF / "train.yaml").read_text().replace("seed: 0", "seed: 42"))
    (tmp_path / "added" / "optimizer").mkdir(parents=True)
    (tmp_path / "added" / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 43\n")
    text = "# An optimizer of my own.\n_target_: torch.optim.AdamW\n_partial_: true\nlr: 0.125\n"
    (tmp_path / "added" / "optimizer" / "mine.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def job_pickle(command, own: Path) -> Path:
    """What Hydra's callback keeps of a run."""
    keep = "+hydra.callbacks.keep._target_=hydra.experimental.callbacks.PickleJobInfoCallback"
    code, said = command("seed=44", keep, f"hydra.run.dir={own / 'first'}")
    assert code == 0, said
    return own / "first" / "config" / "config.pickle"


FLAGS: dict[str, tuple[str, str]] = {
    "help": ("--help", "Groups and their options"),
    "hydra_help": ("--hydra-help", "hydra/sweeper"),
    "version": ("--version", "Hydra 1."),
    "cfg": ("--cfg job optimizer=lion", "bitsandbytes.optim.Lion"),
    "resolve": ("--cfg job --resolve suggested.lr=3e-4", "lr: 0.0003"),
    "package": ("-c job -p adapter", "# @package adapter"),
    "run": ("--run seed=1", ""),
    "multirun": ("adapter.rank=2,4 --multirun seed=1", "run 2 of 2: adapter.rank=4"),
    "shell_completion": ("--shell-completion install=bash", "complete -o nospace"),
    "config_path": ("-cp whole --cfg job", "seed: 42"),
    "config_name": ("--config-name mine --config-dir added --cfg job", "seed: 43"),
    "config_dir": ("optimizer=mine --config-dir added --cfg job", "lr: 0.125"),
    "experimental_rerun": ("--experimental-rerun first/config/config.pickle", ""),
    "info": ("--info defaults", "optimizer/adamw"),
}
"""Each flag: words of a command with it, and what is printed then."""


def test_every_flag_is_tried() -> None:
    names = {name for name in vars(get_args_parser().parse_args([])) if name != "overrides"}
    assert names | {"version"} == FLAGS.keys()


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.usefixtures("own")
def test_a_flag(flag: str, command, request: pytest.FixtureRequest) -> None:
    if flag == "experimental_rerun":
        request.getfixturevalue("job_pickle")
    words, printed = FLAGS[flag]
    code, said = command(*words.split())
    assert code == 0, said
    assert printed in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--run -m", "--run: cannot be combined with --multirun"),
        ("-c job --info", "--cfg: cannot be combined with --info"),
        ("--resolve", "--resolve: has no effect without --cfg"),
        ("-p optimizer", "--package: has no effect without --cfg"),
        ("-cp nowhere", "--config-path: folder 'nowhere' not found"),
        ("-cd nowhere", "--config-dir: folder 'nowhere' not found"),
        ("-cn trian", "--config-name: 'trian' not found"),
        ("--experimental-rerun nothing.pickle", "'nothing.pickle' not found"),
        ("--experimental-rerun nothing.pickle seed=1", "reads all settings from its file"),
        ("-m adapter=glob(zz*)", "adapter: glob() matches no option"),
        ("-m seed=glob(1*)", "seed: glob() lists the options of a group"),
        ("adapter=glob(lo*)", "add -m"),
        ("-m optimizer.lr=interval(1e-4,1e-3)", "the basic sweeper needs a list of values, not an interval"),
        ("sweep=learning_rate optimizer.lr=interval(1,2)", "optimizer.lr=1,2, or use a sweeper that samples"),
        ("-m optimizer=adamw,lion8bit,paged_adamw8bit trainer=cpu", "optimizer=adamw8bit"),
        ("sweep=learning_rate scheduler=cosine,linear,none", "scheduler: has no option 'none'"),
    ],
)
def test_what_cannot_be_is_told(words: str, told: str, command) -> None:
    code, said = command(*words.split())
    assert code == 1
    assert told in said


@pytest.mark.parametrize("option", ["experiment", "debug", "sweep", "logger"])
def test_an_optional_group_can_be_null(option: str, command) -> None:
    code, said = command(f"{option}=null", "--cfg", "job")
    assert code == 0, said
    assert ("TensorBoardLogger" in said) == (option != "logger")


def test_the_configuration_of_each_point_is_shown(command) -> None:
    code, said = command("-m", "--cfg", "job", "-p", "adapter", "adapter=glob(lo*)", "adapter.rank=range(2,4)")
    assert code == 0, said
    assert said.count("# run") == 8
    assert "# run 1: adapter=locon adapter.rank=2" in said
    assert [line for line in said.splitlines() if line.startswith("rank:")] == ["rank: 2", "rank: 3"] * 4


@pytest.mark.parametrize("searched", ["hydra.searchpath=[file://{own}/added]", "hydra.searchpath=['{own}/added']"])
def test_options_of_a_folder_that_is_searched(searched: str, command, own: Path) -> None:
    code, said = command("optimizer=mine", searched.format(own=own), "--cfg", "job")
    assert code == 0, said
    assert "lr: 0.125" in said


def test_a_conf_in_the_working_folder_counts(command, own: Path) -> None:
    (own / "added").rename(own / "conf")
    assert "An optimizer of my own." in command("--help")[1]
    code, said = command("-m", "optimizer=mine,lion")
    assert code == 0, said
    assert "run 1 of 2: optimizer=mine" in said


def test_a_rerun_has_the_settings_of_the_first_and_a_folder_of_its_own(command, job_pickle: Path) -> None:
    code, said = command("--experimental-rerun", str(job_pickle))
    assert code == 0, said
    again = job_pickle.parents[2] / "first-2" / "config" / "config.yaml"
    assert OmegaConf.load(again).seed == 44


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("content", [pickle.dumps(Evil()), pickle.dumps({"a": 1}), b"nothing", b""])
def test_a_rerun_reads_configurations_alone(content: bytes, command, tmp_path: Path) -> None:
    (tmp_path / "some.pickle").write_bytes(content)
    code, said = command("--experimental-rerun", "some.pickle")
    assert code == 1
    assert "'some.pickle' is not the configuration of a run" in said
    assert not (tmp_path / "executed").exists()
