"""Runs of several processes: each is forked from one that has imported everything, so that it starts at once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LONGEST = 120
"""Seconds after which all processes are killed: a test never hangs."""
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.support.preloaded"])


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def forked(cwd: Path, words: Sequence[str], log: Path) -> BaseProcess:
    """`python train.py …` in a folder, under way; what it says goes into `log`."""
    process = _context.Process(target=_run, args=(cwd, [*words], _usual(), log))
    process.start()
    return process


def _usual() -> dict[str, str]:
    """The environment that the server, which may have been started earlier, need not have."""
    return {"OMP_NUM_THREADS": "1", "LORALAB_CACHE": os.environ.get("LORALAB_CACHE", "")}


class Processes:
    """The ranks of one run, as torchrun would start them, each with its own working folder if `cwds` are given."""

    def __init__(
        self,
        cwd: Path,
        words: Sequence[str],
        world: int = 2,
        nodes: int = 1,
        own: Mapping[int, Sequence[str]] | None = None,
        cwds: Sequence[Path] = (),
    ) -> None:
        """own: words of some ranks, in place of those of the same settings."""
        cwd.mkdir(parents=True, exist_ok=True)
        port, self.logs, self.processes = free_port(), [cwd / f"rank{rank}.log" for rank in range(world)], []
        local = world // nodes
        for rank in range(world):
            environment = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank % local, "LOCAL_WORLD_SIZE": local}
            environment |= {"GROUP_RANK": rank // local, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment |= {"TORCHELASTIC_RUN_ID": "test", **_usual()}
            place = cwds[rank // local] if cwds else cwd
            place.mkdir(parents=True, exist_ok=True)
            apart = (own or {}).get(rank, ())
            keys = {word.partition("=")[0] for word in apart}
            argv = [*(word for word in words if word.partition("=")[0] not in keys), *apart]
            given = (place, argv, {k: str(v) for k, v in environment.items()})
            process = _context.Process(target=_run, args=(*given, self.logs[rank]), daemon=False)
            process.start()
            self.processes.append(process)

    def kill(self, rank: int, number: signal.Signals = signal.SIGKILL) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.processes[rank].pid or 0, number)

    def wait(self, longest: float = LONGEST) -> list[int]:
        """The exit codes; those that take too long are killed, which fails the test."""
        until = time.monotonic() + longest
        for process in self.processes:
            process.join(max(0, until - time.monotonic()))
        late = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for rank in late:
            self.kill(rank)
        assert not late, f"rank {late} did not end within {longest} s:\n{self.said()}"
        return [process.exitcode or 0 for process in self.processes]

    def said(self, rank: int | None = None) -> str:
        logs = self.logs if rank is None else [self.logs[rank]]
        return "\n".join(f"--- {log.stem}\n{log.read_text()}" for log in logs if log.exists())


def _run(cwd: Path, words: list[str], environment: dict[str, str], log: Path) -> None:
    os.setsid()
    os.chdir(cwd)
    os.environ.update(environment)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.argv = ["train.py"]
    from loralab import launch

    launch.main(words)


def together(cwd: Path, work: Callable[..., Any], *given: Any, world: int = 2) -> list[Any]:
    """What `work(rank, world, *given)` returns in each of several processes, which find each other as a run's do."""
    port, processes = free_port(), []
    for rank in range(world):
        environment = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world,
            "LOCAL_WORLD_SIZE": world,
            "GROUP_RANK": 0,
        }
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
        words = {key: str(value) for key, value in environment.items()}
        process = _context.Process(target=_work, args=(work, (rank, world, *given), words, cwd / f"result{rank}"))
        process.start()
        processes.append(process)
    until = time.monotonic() + LONGEST
    for process in processes:
        process.join(max(0, until - time.monotonic()))
    for process in processes:
        process.kill()
    return [pickle.loads((cwd / f"result{rank}").read_bytes()) for rank in range(world)]


def _work(work: Callable[..., Any], given: tuple[Any, ...], environment: dict[str, str], result: Path) -> None:
    os.environ.update(environment)
    result.write_bytes(pickle.dumps(work(*given)))
