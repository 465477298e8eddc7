"""`loralab watch`: what it shows of runs that train, in this and other terminals, and of those that do not any more."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rich.console import Console

from loralab.console import CONTROL
from loralab.report.live import Moment, State, what_differs
from loralab.report.watch import fitting
from loralab.training.progress_file import NAME, Progress, read
from tests.support.runs import command, record
from tests.support.verbs import loralab

HOLD = """
import sys; from pathlib import Path; from loralab.writing import hold
assert all([hold(Path(folder)) for folder in sys.argv[1:]]); print("held", flush=True); input()
"""


@contextmanager
def held(*folders: Path) -> Iterator[None]:
    """Within it another process has locked the folders, as one that runs something there has."""
    words = [sys.executable, "-c", HOLD, *map(str, folders)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "held\n"  # noqa: PT018
        try:
            yield
        finally:
            other.communicate("\n")


def rows(table: str) -> dict[str, list[str]]:
    """The cells of each row of a table, by its first."""
    lines = [re.split(r"\s{2,}", line.strip()) for line in table.splitlines() if line.strip()]
    return {cells[0]: cells[1:] for cells in lines}


@pytest.fixture(scope="module")
def sweep(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two points; during the second step of each, another process has watched it."""
    folder = tmp_path_factory.mktemp("watched") / "sweep"
    words = ("-m", "optimizer.lr=1e-3,1e-2", "data/validation=split", "callbacks.validation.every_n_steps=1")
    look = ("+callbacks.look._target_=tests.support.callbacks.Watched", "+callbacks.look.batch=3", "allow=[tests.]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loralab.callbacks.progress_file.EVERY_SECONDS", 0.0)
        command(random_base, folder, *words, *look, f"hydra.sweep.dir={folder}")
    return folder


def stopped(sweep: Path, folder: Path, **facts: object) -> Path:
    """A copy of the sweep's second point, after its second step, with other facts in its record."""
    shutil.copytree(sweep / "1", folder)
    written = {key: value for key, value in record(folder).items() if key != "metrics"}
    (folder / "run.json").write_text(json.dumps({**written, "status": "running", **facts}))
    Progress(2, 3, 4.5, 6.0, 0.25, 0.5).write(folder)
    return folder


def test_a_run_is_watched_from_another_process(sweep: Path) -> None:
    said = (sweep / "0" / "watched.txt").read_text()
    assert rows(said)["0"][:3] == ["running", "2/3", "66%"]
    assert "1 run: 1 running · step 2/3 (67%) · " in said


def test_a_sweep_is_watched_from_another_process(sweep: Path) -> None:
    """One run waits while the first trains; then the first is finished."""
    assert "2 runs: 1 running, 1 waiting · step 2/6 (33%) · " in (sweep / "0" / "sweep.txt").read_text()
    said = (sweep / "1" / "sweep.txt").read_text()
    one, two = rows(said)["0"], rows(said)["1"]
    assert one[:4] == ["lr=1e-3", "finished", "3/3", "100%"]
    assert two[:4] == ["lr=0.01", "running", "2/3", "66%"]
    assert re.fullmatch(r"\d:\d\d:\d\d", two[5])
    facts = record(sweep / "0")
    assert one[-2:] == [f"{facts['loss']:.4f}", f"{facts['metrics']['validation/loss']:.4f}"]
    assert "2 runs: 1 finished, 1 running · step 5/6 (83%)" in said


def test_runs_that_ended_in_other_ways(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    stopped(sweep, tmp_path / "killed")
    stopped(sweep, tmp_path / "failed", status="failed", error="no \x1b[31mroom\nTraceback")
    shutil.copytree(sweep / "0", tmp_path / "pruned")
    facts = {**record(sweep / "0"), "stopped": "pruned at step 2: worse", "errors": 7}
    (tmp_path / "pruned" / "run.json").write_text(json.dumps(facts))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    loralab("watch", tmp_path, "--once")
    said = capsys.readouterr().out
    found = rows(said)
    assert found["killed"][1:] == ["killed", "2/3", "66%", "4.5", "0.2500", "0.5000"]
    assert found["failed"][1:4] == ["failed", "2/3", "66%"]
    assert found["pruned"][1:4] == ["finished (pruned)", "3/3", "100%"]
    assert found["damaged"] == ["not readable"]
    assert "failed: no �[31mroom\n" in said
    assert "damaged: run.json is damaged or incomplete" in said
    loralab("runs", tmp_path, "--json")
    assert {Path(row["folder"]).name: row["progress"] for row in json.loads(capsys.readouterr().out)} == {
        **dict.fromkeys(("failed", "pruned", "damaged", "killed")),
    }


def test_what_runs_in_a_list_of_runs(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with held(stopped(sweep, tmp_path / "run")):
        loralab("runs", tmp_path)
        assert "running │ step 2/3" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": null}', '{"step": 1, "loss": "low"}', '{"steps": 3}'])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    assert read(tmp_path) is None


def test_time_passes_between_two_writes(tmp_path: Path) -> None:
    Progress(1, 100, seconds_left=50.0).write(tmp_path)
    os.utime(tmp_path / NAME, (time.time() - 20,) * 2)
    found = read(tmp_path)
    assert found and found.seconds_left == pytest.approx(30, abs=2)  # noqa: PT018


def test_a_run_that_cannot_write_it_is_none_the_worse(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "run" / NAME).mkdir(parents=True)
    folder = train()
    assert record(folder)["status"] == "finished"
    assert capsys.readouterr().err.count(f"note: {NAME}: ") == 1


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([["optimizer.lr=0.001", "seed=1"], ["optimizer.lr=0.002", "seed=1"]], ["lr=1e-3", "lr=2e-3"]),
        ([["adapter=dora", "+a.b=1"], ["adapter=lora"]], ["adapter=dora b=1", "adapter=lora"]),
        ([["hydra.run.dir=a"], ["hydra.run.dir=b"]], ["", ""]),
        ([["seed=1"]], [""]),
        ([], []),
    ],
)
def test_what_differs_between_the_runs(overrides: list, expected: list) -> None:
    assert what_differs(overrides) == expected


@pytest.mark.parametrize(("width", "is_there"), [(70, False), (100, True)])
def test_many_runs_in_a_small_terminal(width: int, is_there: bool) -> None:
    """Each has one line; what runs is always there, and the newest; what is spare needs room."""
    done = Progress(100, 100, 10.0, None, 0.1, 0.2)
    states = [State(str(number), "finished", done, f"lr={number}e-4 rank=8 alpha=4") for number in range(99)]
    states[7] = State("7", "running", Progress(50, 100, 10.0, 5.0, 0.1, 0.2), "lr=1e-4 rank=8 alpha=4")
    console = Console(file=io.StringIO(), width=width, height=12)
    console.print(fitting(Moment(states, 1, False), console))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert len(lines) <= 12
    assert all(len(line) <= width for line in lines)
    shown = rows("\n".join(lines))
    assert [name for name in shown if name.isdigit()] == ["7", *map(str, range(94, 99))]
    assert ("images/s" in shown["run"]) == is_there
    assert shown["7"][1:3] == ["running", "50/100"]
    assert "and 93 more" in lines[-1]


def test_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    loralab("watch", tmp_path)
    assert capsys.readouterr().out == f"no runs in {tmp_path}\n"
    loralab("watch", tmp_path / "nowhere", code=1)
    assert "not found" in capsys.readouterr().err


class Terminal:
    """`loralab watch` on a terminal of 24 lines."""

    def __init__(self, *words: object) -> None:
        import fcntl
        import pty
        import struct
        import termios

        self.side, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "loralab", "watch", *map(str, words)],
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "", "LINES": ""},
        )
        os.close(its)
        self.said = ""

    def until(self, words: str) -> None:
        """Waits for these to be shown."""
        while words not in self.said:
            self._read()

    def end(self) -> int:
        """What remains to be read, and the exit code."""
        try:
            while True:
                self._read()
        except OSError:  # the process has closed its side
            pass
        os.close(self.side)
        return self.process.wait(timeout=60)

    def _read(self) -> None:
        text = os.read(self.side, 1 << 16).decode(errors="replace")
        if not text:
            raise OSError
        self.said += CONTROL.sub("", text)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_shows_a_run_that_begins_and_ends(sweep: Path, tmp_path: Path) -> None:
    """A sweep is locked before its first run has a record, and between two; when nothing runs any more, it ends."""
    points = tmp_path / "points"
    points.mkdir()
    with held(points):
        terminal = Terminal(points)
        terminal.until("waiting for the first run to start")
        stopped(sweep, tmp_path / "made", status="finished").rename(points / "0")
        terminal.until("1 run: 1 finished")
        stopped(sweep, tmp_path / "made").rename(points / "1")
        terminal.until("2 runs: 1 finished, 1 killed")
        with held(points / "1"):
            terminal.until("2 runs: 1 finished, 1 running · step 4/5 (80%) · 4.5 images/s · 0:00:0")
    assert terminal.end() == 0
    last = rows(terminal.said.rpartition("run ")[2])
    assert last["1"][0] == "killed"


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_ctrl_c_ends_it_well(sweep: Path, tmp_path: Path) -> None:
    with held(stopped(sweep, tmp_path / "run")):
        terminal = Terminal(tmp_path / "run")
        terminal.until("1 running")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 0
    assert "Traceback" not in terminal.said


@pytest.mark.parametrize("busy", [".", "1"])
def test_two_processes_do_not_run_the_same_sweep(
    train, tmp_path: Path, capsys: pytest.CaptureFixture, busy: str
) -> None:
    """Nor runs in it, which go on where only the process of a parallel sweep was killed."""
    place = tmp_path / "points" / busy
    place.mkdir(parents=True)
    with held(place):
        train("-m", "seed=1,2", "resume=auto", f"hydra.sweep.dir={tmp_path / 'points'}", code=1)
    assert f"hydra.sweep.dir: another process runs what is in {place}\n" in capsys.readouterr().err
    assert not [*tmp_path.rglob("run.json")]
