"""What a run leaves behind however it ends: by signals, errors, closed pipes, side work that fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from loralab import console, signals
from tests import ROOT
from tests.support.runs import adapter, command, record, train_py

Train = Callable[..., Path]


def signal_at(batch: int, name: str, again: float | None = None) -> list[str]:
    target = [
        "+callbacks.stop._target_=tests.support.callbacks.SignalAt",
        f"+callbacks.stop.batch={batch}",
        "allow=[tests.]",
    ]
    return [*target, f"+callbacks.stop.name={name}", f"+callbacks.stop.again={'null' if again is None else again}"]


@pytest.fixture(scope="module")
def whole(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happens to."""
    return command(random_base, tmp_path_factory.mktemp("whole") / "run")


def test_a_signal_saves_adapter_and_state_and_the_run_can_go_on(
    train: Train, whole: Path, capsys: pytest.CaptureFixture
) -> None:
    """With default settings. Twice is once; a second one after a while leaves the step before."""
    states = {}
    for name, code, again, step in (
        ("SIGINT", 130, None, 2),
        ("SIGTERM", 143, 0.01, 2),
        ("SIGHUP", 129, 0.01, 2),
        ("SIGINT", 130, 1.1, 1),
    ):
        run = train(*signal_at(2, name, again), name=f"{name}-{again}", code=code)
        assert (record(run)["status"], record(run)["error"]) == ("interrupted", name)
        assert [path.name for path in run.glob("*.safetensors")] == [f"adapter-step{step:08d}.safetensors"]
        assert [path.name for path in (run / "states").iterdir()] == [f"step{step:08d}"]
        content = (run / "states" / f"step{step:08d}" / "state.ckpt").read_bytes()
        if states.setdefault(step, content) is not content:
            assert states[step] == content, "to resume from the first shows what it is worth"
            continue
        resumed = train("resume=auto", f"resume_root={run}", name=f"{name}-{again}-resumed")
        assert f"resuming from step {step} of" in capsys.readouterr().out
        assert adapter(resumed) == adapter(whole)


def test_a_signal_while_the_last_pictures_are_drawn(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result is there; what is cut short is the pictures, and whatever waits for the exit code does not go on."""
    from loralab.callbacks import sampling

    def sample(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        signals.check()
        pytest.fail("it went on drawing")

    monkeypatch.setattr(sampling, "sample", sample)
    bare = "output.metadata=false"
    run = train("callbacks.samples.enabled=true", "callbacks.samples.before=false", bare, name="cut", code=143)
    assert record(run)["status"] == "interrupted"
    assert record(run)["files"] == [str(run / "adapter.safetensors")]
    assert adapter(run) == adapter(train(bare, name="whole"))


def test_a_signal_ends_a_sweep_behind_its_point(train: Train, tmp_path: Path) -> None:
    words = ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path / 'sweep'}", *signal_at(2, "SIGINT")]
    train(*words, code=130)
    assert [path.name for path in (tmp_path / "sweep").glob("*/run.json")] == ["run.json"]
    assert (tmp_path / "sweep" / "0" / "states" / "step00000002" / "state.json").is_file()


def test_side_work_that_fails_costs_nothing(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Callbacks of loralab's and of others, loggers that cannot be made and whose folder goes away."""
    from lightning.pytorch.loggers import TensorBoardLogger

    from loralab.callbacks.hparams import HParams
    from loralab.callbacks.validation import Validation

    both = ("data/validation=split", "callbacks.validation.every_n_steps=1", "output.metadata=false", "ema.decay=0.9")
    whole = train(*both, "callbacks.validation.enabled=false", name="whole")

    def fails(*_: object) -> None:
        raise RuntimeError("no figures")

    monkeypatch.setattr(Validation, "figures", fails)
    monkeypatch.setattr(HParams, "on_train_end", fails)
    monkeypatch.setattr(TensorBoardLogger, "experiment", property(fails))
    capsys.readouterr()
    words = [
        "+callbacks.way._target_=tests.support.callbacks.InTheWay",
        "+callbacks.way._partial_=true",
        "allow=[tests.]",
    ]
    words += ["callbacks.samples.enabled=true", "callbacks.samples.steps=1", "callbacks.samples.every_n_steps=1"]
    words += ["callbacks.samples.before=false", "callbacks.tag_occurrence.enabled=true"]
    run = train(*both, *words, "logger=many", "trainer.log_every_n_steps=1", name="run", code=1)
    assert adapter(run) == adapter(whole)
    assert record(run)["status"] == "finished with errors"
    assert (run / "adapter-tags-2.txt").is_file()  # a folder lies in the way of the first name
    failed = {line.partition(" failed:")[0] for line in record(run)["errors"]}
    assert failed == {"samples", "validation", "hparams", "tensorboard", "csv", "way"}
    said, log = capsys.readouterr().err, (run / "train.log").read_text()
    assert "Traceback" not in said
    assert log.count("Traceback") >= len(failed)
    for name in failed:
        assert len(re.findall(rf"^error +{name} failed: .+; the run continues$", said, re.MULTILINE)) == 1, name


def test_side_work_that_fails_for_a_while_is_tried_again(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Pictures that fail before training and at its last step, states that fail at the first two: each failure is said
    once, what comes later is drawn and saved, and the adapter is that of a run where nothing fails."""
    from loralab.callbacks import sampling
    from loralab.training.state import States

    words = ("output.metadata=false", "callbacks.state.enabled=true", "callbacks.state.every_n_steps=1")
    calls, sample, save = [0, 0], sampling.sample, States.save

    def drawn(*given: object, **named: object) -> object:
        calls[0] += 1
        if calls[0] in (1, 2, 5):
            raise OSError(f"no room {calls[0] // 5}")
        return sample(*given, **named)  # type: ignore[arg-type]

    def saved(*given: object) -> object:
        calls[1] += 1
        if calls[1] < 3:
            raise OSError("no room")
        return save(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(sampling, "sample", drawn)
    monkeypatch.setattr(States, "save", saved)
    capsys.readouterr()
    pictures = ("callbacks.samples.enabled=true", "callbacks.samples.steps=1", "callbacks.samples.every_n_steps=1")
    run = train(*words, *pictures, "callbacks.samples.prompts=[a]", "trainer.max_steps=4", name="run", code=1)
    # before and step 1 fail, steps 2 and 3 do not, step 4 does, and what it would show is drawn after training
    shown = sorted(path.name for path in (run / "samples").iterdir())
    assert shown == ["grid.png", *(f"step{step:08d}-00.png" for step in (2, 3, 4))]
    assert [path.name for path in sorted((run / "states").iterdir())] == [f"step{step:08d}" for step in (3, 4)]
    assert record(run)["errors"] == ["samples failed: OSError: no room 0", "state failed: OSError: no room"]
    assert len(re.findall(r"^error ", capsys.readouterr().err, re.MULTILINE)) == 2
    assert adapter(run) == adapter(train(*words, "trainer.max_steps=4", name="whole"))


def test_whatever_a_callback_raises_is_reported(train: Train, capsys: pytest.CaptureFixture) -> None:
    """An exit in it ends no run, least of all with the code 0; Ctrl-C in it is one."""
    words = ["allow=[tests.]", "output.metadata=false"]
    for what in ("exit", "untold", "escapes"):
        words += [f"+callbacks.{what}._target_=tests.support.callbacks.Raises", f"+callbacks.{what}.what={what}"]
    run = train(*words, name="run", code=1)
    assert record(run)["status"] == "finished with errors"
    assert (run / "adapter.safetensors").is_file()
    said = capsys.readouterr().err
    for line in ("exit failed: SystemExit: 0", "untold failed: Untold: no message", "escapes failed: LookupError: "):
        assert f"error     {line}" in said
    assert not {"\x1b", "\x07"} & set(said + (run / "train.log").read_text())
    target = ["+callbacks.c._target_=tests.support.callbacks.Raises", "+callbacks.c.what=interrupt", "allow=[tests.]"]
    run = train(*target, name="interrupted", code=130)
    assert (record(run)["status"], record(run)["error"]) == ("interrupted", "SIGINT")
    assert list((run / "states").iterdir())


@pytest.mark.parametrize("what", ["folder", "record"])
def test_a_run_whose_folder_is_taken(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, what: str
) -> None:
    """Told, exit code 1, and the adapter is where it says."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = [
        "+callbacks.way._target_=tests.support.callbacks.TakesFolder",
        "+callbacks.way._partial_=true",
        "allow=[tests.]",
    ]
    run = train(*target, f"+callbacks.way.what={what}", "logger=null", name="run", code=1)
    out, err = capsys.readouterr()
    assert "run.json could not be written" in err
    assert "Traceback" not in err
    (saved,) = re.findall(r"^  (/.*/adapter\.safetensors)$", out, re.MULTILINE)
    assert Path(saved).is_file()
    assert Path(saved).is_relative_to(run) == (what == "record")


def test_an_error_in_training_leaves_the_last_whole_step(
    train: Train, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from loralab.training.module import LoraModule

    step = LoraModule.training_step

    def failing(error: Exception) -> Callable:
        def training_step(module: LoraModule, *given: object) -> torch.Tensor:
            if module.global_step == 2:
                raise error
            return step(module, *given)  # type: ignore[arg-type]

        return training_step

    for name, error in (("bug", ZeroDivisionError("a bug")), ("memory", torch.OutOfMemoryError("out of memory"))):
        with monkeypatch.context() as patch:
            patch.setattr(LoraModule, "training_step", failing(error))
            run = train(name=name, code=1)
        assert record(run)["status"] == "failed"
        log = (run / "train.log").read_text()
        assert ("ZeroDivisionError: a bug" in log) == ("Traceback" in log) == (name == "bug")
        assert f"saved     {run / 'adapter-step00000002.safetensors'}" in log
        assert adapter(train("resume=auto", f"resume_root={run}", name=f"{name}-resumed")) == adapter(whole)


def test_an_error_in_the_middle_of_an_optimizer_step_leaves_no_state(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of its weights may be of the step before: good for a file, but nothing to go on from exactly."""
    from torch.optim import AdamW

    step = AdamW.step

    def failing(optimizer: AdamW, closure: Callable) -> object:
        loss = step(optimizer, closure)
        if optimizer.state_dict()["state"][0]["step"] == 3:
            raise torch.OutOfMemoryError("out of memory")
        return loss

    monkeypatch.setattr(AdamW, "step", failing)
    run = train(name="run", code=1)
    assert (run / "adapter-step00000002.safetensors").is_file()
    assert not list((run / "states").glob("*"))


def test_a_state_is_saved_before_the_validation_that_is_made_up_for(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plateau schedule lowers the rate after the validation of the very step that the state is of."""
    from loralab.callbacks.validation import Validation

    words = ["data/validation=split", "scheduler=plateau", "scheduler.patience=0", "scheduler.threshold=0.9"]
    words += ["callbacks.validation.every_n_steps=1", "optimizer.lr=1e-2"]
    whole, figures, killed = train(*words, name="whole"), Validation.figures, []

    def figures_of_two(validation: Validation, module: object) -> dict[str, float]:
        if validation.last == 1 and not killed:
            killed.append(True)
            assert (Path("killed") / "states" / "step00000002" / "state.json").is_file()
            os.kill(os.getpid(), signal.SIGTERM)
            signals.check()
        return figures(validation, module)  # type: ignore[arg-type]

    monkeypatch.setattr(Validation, "figures", figures_of_two)
    states = ["callbacks.state.enabled=true", "callbacks.state.every_n_steps=1"]
    run = train(*words, *states, name="killed", code=143)
    assert adapter(train(*words, "resume=auto", f"resume_root={run}", name="resumed")) == adapter(whole)


def test_the_log_has_all_that_is_printed(train: Train, capsys: pytest.CaptureFixture) -> None:
    run = train("callbacks.progress.enabled=true", name="run")
    out, err = capsys.readouterr()
    log = (run / "train.log").read_text().splitlines()
    assert sorted(log) == sorted(line for line in (out + err).splitlines() if line)
    assert re.search(r"^step 1/3 · epoch 1 · loss \d\.\d{4} · lr 2\.00e-03 · ", out, re.MULTILINE)


def test_a_log_shows_what_a_terminal_does(tmp_path: Path) -> None:
    log = console.Log()
    log.line("before it is opened")
    log.open(tmp_path / "train.log")
    log.line("\r\x1b[2Kstep 1 \x1b[32m━━\x1b[0m\r\x1b[2Kstep 2 \x1b[32m━━━\x1b[0m\r")
    log.close()
    assert (tmp_path / "train.log").read_text() == "before it is opened\nstep 2 ━━━\n"


class Command:
    """The real command, as a process in a group of its own."""

    def __init__(self, base: Path, folder: Path, *words: str) -> None:
        folder.mkdir()
        self.root, self.printed, self.starts = folder, folder / "printed", 0
        usual = [f"model.base={base}", "adapter.rank=2", "output.precision=fp32", "suggested.batch_size=4"]
        usual += ["trainer.accelerator=cpu", f"data.cache_folder={folder / 'cache'}", f"resume_root={folder}"]
        usual += ["callbacks.samples.steps=2", "resume=auto"]
        self.words = [sys.executable, str(ROOT / "train.py"), *usual, *words]

    def start(self, **given: object) -> Command:
        self.starts += 1
        self.folder = self.root / f"run{self.starts}"
        given = given or {"stdout": self.printed.open("w"), "stderr": subprocess.STDOUT}
        words = [*self.words, f"hydra.run.dir={self.folder}"]
        self.process = subprocess.Popen(words, start_new_session=True, **given)  # type: ignore[call-overload]
        return self

    def until(self, file: Path, words: str) -> None:
        deadline = time.time() + 120
        while not (file.exists() and words in file.read_text()):
            assert self.process.poll() is None, file.read_text() if file.exists() else "it has ended"
            assert time.time() < deadline
            time.sleep(0.01)

    def kill(self, number: int, *again: float) -> int:
        os.killpg(self.process.pid, number)
        for seconds in again:
            time.sleep(seconds)
            os.killpg(self.process.pid, number)
        return self.process.wait(120)


@pytest.mark.slow
@pytest.mark.ci
def test_signals_to_all_of_the_processes_at_any_time(random_base: Path, tmp_path: Path) -> None:
    """With two that load data, twice within 10 ms: while it starts, loads, encodes and trains; it goes on each time."""
    words = ["trainer.max_steps=12", "data.num_workers=2"]
    whole = tmp_path / "whole" / "run"
    train_py(*Command(random_base, whole.parent, *words).words[2:], f"hydra.run.dir={whole}")
    run = Command(random_base, tmp_path / "run", *words)
    for number, words_to_wait_for in ((15, "reading"), (2, "loading"), (1, "files"), (15, "step 1")):
        run.start().until(run.printed, words_to_wait_for)
        assert run.kill(number, 0.01) == 128 + number
        assert "Traceback" not in run.printed.read_text()
        if words_to_wait_for != "reading":  # there is no folder yet
            assert record(run.folder)["status"] == "interrupted"
    assert run.start().process.wait(200) == 0
    assert adapter(run.folder) == adapter(whole)


@pytest.mark.slow
@pytest.mark.ci
def test_pipes_that_are_closed(random_base: Path, tmp_path: Path) -> None:
    """`| head` ends with the run, `| tee` with Ctrl-C: the log says what nobody read."""
    run = Command(random_base, tmp_path / "head", "trainer.max_steps=6").start(
        stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run.until(run.folder / "train.log", "loading")
    run.process.stdout.close()  # type: ignore[union-attr]
    run.process.stderr.close()  # type: ignore[union-attr]
    assert run.process.wait(200) == 0
    assert record(run.folder)["status"] == "finished"
    assert "finished: 6 steps" in (run.folder / "train.log").read_text()
    run = Command(random_base, tmp_path / "tee", "trainer.max_steps=100000").start(
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    run.until(run.folder / "train.log", "step 1")
    run.process.stdout.close()  # type: ignore[union-attr]
    assert run.kill(signal.SIGINT) == 130
    (state,) = (run.folder / "states").iterdir()
    assert (run.folder / f"adapter-{state.name}.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["error", "mistake", "infinite"])
def test_a_failure_in_another_process_costs_nothing(how: str, random_base: Path, tmp_path: Path) -> None:
    """Of two devices the second one's process fails: the first has saved the last whole step before it ends, and with
    it the state where both stopped at the same step."""
    words = ["trainer=ddp", "trainer.devices=2", "callbacks.samples.enabled=false"]
    words += [
        "+callbacks.fails._target_=tests.support.callbacks.FailsIn",
        "+callbacks.fails.rank=1",
        "+callbacks.fails.step=3",
    ]
    words += [f"+callbacks.fails.how={how}", "allow=[tests.]", "trainer.max_steps=6"]
    given = {"stderr": subprocess.PIPE, "env": os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}}
    run = Command(random_base, tmp_path / "run", *words).start(**given)
    _, said = run.process.communicate(timeout=200)
    assert run.process.returncode == 1
    assert (run.folder / "adapter-step00000002.safetensors").is_file()
    assert record(run.folder)["status"] == ("diverged" if how == "infinite" else "failed")
    assert {"error": b"OSError: gone", "mistake": b"data.folder: an image is gone", "infinite": b"is not finite"}[
        how
    ] in said
    states = [path.name for path in run.folder.glob("states/*")]
    assert states == (["step00000002"] if how == "infinite" else [])


def test_it_speaks_at_once(tmp_path: Path) -> None:
    """Before anything heavy is imported; under a flag that asks, only the answer comes."""
    watch = "import sys; sys.argv[1:] = ['optimizer.lr=x']; from loralab import console; console.greet()"
    heavy = "print(*{'hydra', 'torch', 'omegaconf', 'rich', 'numpy'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", f"{watch}; {heavy}"], capture_output=True, text=True, check=True)
    assert told.stderr.startswith("loralab ")
    assert told.stdout == "\n"
    asked = [sys.executable, str(ROOT / "train.py"), "--help"]
    assert not subprocess.run(asked, capture_output=True, text=True, check=True, cwd=tmp_path).stderr


def test_a_stream_outlives_its_reader(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    log = console.Log()
    with os.fdopen(writer, "w") as stream:
        kept = console.Stream(stream, log)
        print("read", file=kept)
        os.close(reader)
        print("not read", file=kept)
        os.write(stream.fileno(), b"nor is this, and it harms nobody")
        log.open(tmp_path / "train.log")
    log.close()
    assert (tmp_path / "train.log").read_text() == "read\nnot read\n"
