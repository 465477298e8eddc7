"""Machines under torchrun: processes or whole machines are killed and started again, and nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests import ROOT
from tests.support.processes import Processes, free_port
from tests.support.runs import adapter, words

TWO = ("trainer=ddp", "data.batch_size=2", "adapter.rank=2")
STATES = ("resume=auto", "callbacks.state.enabled=true", "callbacks.state.every_n_steps=1")
PLAIN = "output.metadata=false"
"""It has the number of machines."""


class Node:
    """An agent of torchrun that starts one process; two of them on loopback are as two machines."""

    def __init__(self, number: int, folder: Path, port: int, given: list[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log, self.starts = folder, folder.parent / f"{folder.name}-{number}.log", 0
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--max-restarts", "40"]
        rendezvous += ["--rdzv-conf", f"is_host={number == 0}", "--nnodes", "2", "--nproc-per-node", "1"]
        self.command = [sys.executable, "-m", "torch.distributed.run", *rendezvous, str(ROOT / "train.py"), *given]
        self.start()

    def start(self) -> None:
        self.starts += 1
        with self.log.open("a") as log:
            self.agent = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log)

    def ranks(self) -> list[int]:
        with suppress(FileNotFoundError):
            return [*map(int, Path(f"/proc/{self.agent.pid}/task/{self.agent.pid}/children").read_text().split())]
        return []

    def kill_rank(self) -> bool:
        ranks = self.ranks()
        for rank in ranks:
            os.kill(rank, signal.SIGKILL)
        return bool(ranks)

    def kill(self) -> bool:
        """The whole machine: no agent sees what becomes of its processes."""
        ranks = self.ranks()
        self.agent.kill()
        for rank in ranks:
            with suppress(ProcessLookupError):
                os.kill(rank, signal.SIGKILL)
        self.agent.wait()
        return bool(ranks)


@contextmanager
def nodes(base: Path, folder: Path, *given: str, is_shared: bool) -> Iterator[list[Node]]:
    """Two machines, whose run's folder is `folder/run`, with one disk or one each."""
    port, made = free_port(), []
    for number in (0, 1):
        own = folder / ("shared" if is_shared else f"disk{number}")
        run = folder / "run" if is_shared or number == 0 else own / "run"
        usual = words(base, run, *TWO, *STATES, PLAIN, f"resume_root={run}", f"data.cache_folder={own}/cache", *given)
        made.append(Node(number, own, port, [*usual, "trainer.num_nodes=2", "trainer.devices=1"]))
    try:
        yield made
    finally:
        for node in made:
            node.kill()


def until_finished(machines: list[Node], folder: Path, disturb: Callable[[], bool], count: int, longest: float) -> None:
    """Calls `disturb` after every few steps until it has succeeded so often; agents that fail are started again."""
    numbers, newest, until = random.Random(0), 0, time.monotonic() + longest
    while any(node.agent.poll() is None for node in machines):
        said = "\n".join(node.log.read_text()[-4000:] for node in machines)
        assert time.monotonic() < until, f"{count} kills were left\n{said}"
        time.sleep(0.2)
        now = max((int(path.name[4:12]) for path in folder.glob("run/states/step*")), default=0)
        if count and now > newest + numbers.randint(0, 5):
            newest = now
            count -= disturb()
        for node in machines:
            if node.agent.poll():
                node.start()
    assert not count


def undisturbed(base: Path, folder: Path, *given: str) -> bytes:
    """The adapter of the same run with two processes that nothing happens to."""
    usual = words(base, folder / "whole", *TWO, *STATES, PLAIN, f"resume_root={folder / 'whole'}", *given)
    whole = Processes(folder / "logs", [*usual, "trainer.devices=2"])
    assert whole.wait() == [0, 0], whole.said()
    return adapter(folder / "whole")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("count", "is_shared"), [pytest.param(1, False, marks=pytest.mark.ci), (2, False), (2, True), (20, True)]
)
def test_killed_processes_are_started_again(count: int, is_shared: bool, random_base: Path, tmp_path: Path) -> None:
    """By their agents, again and again; the file is that of a run that nothing has happened to, bit for bit."""
    steps = f"trainer.max_steps={15 * count}"
    with nodes(random_base, tmp_path, steps, is_shared=is_shared) as machines:
        numbers = random.Random(1)
        until_finished(machines, tmp_path, lambda: numbers.choice(machines).kill_rank(), count, 1500)
        assert [node.starts for node in machines] == [1, 1], "no agent has failed"
    assert adapter(tmp_path / "run") == undisturbed(random_base, tmp_path, steps)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("is_shared", [False, True], ids=["own disks", "one disk"])
def test_a_machine_that_is_lost_comes_back(
    number: int, is_shared: bool, random_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agent and process are killed together, and both started again; the other agent goes on. The first one serves the
    rendezvous: where it is lost, the other agent ends, and is started again, too."""
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # as docs/scaling.md says
    steps = "trainer.max_steps=30"
    with nodes(random_base, tmp_path, steps, is_shared=is_shared) as machines:
        until_finished(machines, tmp_path, machines[number].kill, 1, 500)
        assert [node.starts for node in machines] == ([2, 2] if number == 0 else [1, 2])
    assert adapter(tmp_path / "run") == undisturbed(random_base, tmp_path, steps)
