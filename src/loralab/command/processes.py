"""The processes of a run's further devices on this machine, where neither torchrun nor Slurm starts them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from typing import IO, TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from loralab import signals
from loralab.errors import UserError, user_error
from loralab.ranks import is_lost
from loralab.schema.compose import Places

if TYPE_CHECKING:
    from lightning import Trainer

GRACE = 30.0
"""Seconds that processes have to end by themselves where one of them has ended; then they are killed."""
CHILD = "LORALAB_CHILD"
"""An environment variable of those started here. Their input has the configuration, and ends with the first process."""

PLACE = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "WORLD_SIZE", "LOCAL_RANK", "RANK")
"""Environment variables by which processes find each other."""


@contextmanager
def started(trainer: Trainer, cfg: DictConfig, is_ending: Callable[[], bool]) -> Iterator[None]:
    """Within it the other processes of the trainer run, with the same configuration.

    is_ending: whether the run was asked to end, so that they may. Where one ends before, the run ends within `GRACE`
    seconds, with a UserError if it still can.
    """
    environment: Any = getattr(trainer.strategy, "cluster_environment", None)
    children: list[subprocess.Popen] = []
    before, is_over = {name: os.environ.get(name) for name in PLACE}, threading.Event()
    try:
        if environment is not None and not environment.creates_processes_externally:
            _start_all(environment, trainer.num_devices, trainer.world_size, cfg, children)
            threading.Thread(target=_watch, args=(children, is_ending, is_over), daemon=True).start()
        yield
    except BaseException as error:
        is_over.set()
        if isinstance(error, signals.Interrupted):
            _ask_to_end(children)
        if is_lost(error):
            signals.check()  # all were asked to end
            raise _lost(next(filter(None, map(_ended, children)), None)) from error
        raise
    finally:
        is_over.set()
        _await(children)
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {} if value is None else {name: value}


def _start_all(environment: Any, count: int, world: int, cfg: DictConfig, children: list[subprocess.Popen]) -> None:
    """Starts the processes of all devices but the first, and lets this process know that it is that of the first."""
    node = environment.node_rank()
    common = {"MASTER_ADDR": environment.main_address, "MASTER_PORT": environment.main_port, "NODE_RANK": node}
    os.environ |= {name: str(value) for name, value in {**common, "WORLD_SIZE": world}.items()}
    for local in range(1, count):
        children.append(_start(cfg, {"LOCAL_RANK": str(local), "RANK": str(node * count + local)}))
    os.environ |= {"LOCAL_RANK": "0", "RANK": str(node * count)}


def _start(cfg: DictConfig, own: dict[str, str]) -> subprocess.Popen:
    """A process with this one's environment besides its own."""
    whole = copy(cfg)
    with open_dict(whole):
        whole.hydra = HydraConfig.get()
    path = os.pathsep.join(filter(None, sys.path))
    environment = {**os.environ, **own, CHILD: "1", "PYTHONPATH": path}
    child = subprocess.Popen([sys.executable, "-m", "loralab.train"], env=environment, stdin=subprocess.PIPE)
    assert child.stdin
    pickle.dump((Places.main, Places.name, Places.further, whole), child.stdin)
    child.stdin.flush()
    return child


def handed() -> DictConfig | None:
    """The configuration, where this process was started here; it then ends soon after the first one has, however."""
    if os.environ.pop(CHILD, None) is None:
        return None
    source = os.fdopen(os.dup(0), "rb", buffering=0)
    *places, cfg = pickle.load(source)
    Places.use(*places)
    threading.Thread(target=_end_with, args=(source,), daemon=True).start()
    return cfg


def _end_with(first: IO[bytes]) -> None:
    with suppress(OSError):
        while first.read(1):
            pass
    time.sleep(GRACE)  # this process may be about to end by itself
    os.write(2, b"the first process of this run has ended, and so does this one\n")
    os._exit(1)


def _watch(children: list[subprocess.Popen], is_ending: Callable[[], bool], is_over: threading.Event) -> None:
    """Ends this process where another one has, unless it does so by itself: a collective may wait for it forever."""
    while not (is_over.wait(0.5) or is_ending()):
        if who := next(filter(None, (_ended(child, 0) for child in children)), None):
            if not is_over.wait(GRACE) and not is_ending():
                os.write(2, f"{_lost(who)}\n".encode())
                for child in children:
                    child.kill()
                os._exit(1)
            return


def _lost(who: str | None) -> UserError:
    found = who or "the connection to another process of this run has ended"
    return user_error("trainer", found, "see what it has printed; continue from the last training state: resume=auto")


def _ended(child: subprocess.Popen, wait: float = 2.0) -> str | None:
    """In words, how a process has ended; None where it has not, or with success."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(wait)
    if not child.returncode:
        return None
    by = f"exit code {child.returncode}" if child.returncode > 0 else signal.Signals(-child.returncode).name
    return f"the process of another device (pid {child.pid}) was ended by {by}"


def _ask_to_end(children: list[subprocess.Popen]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()


def _await(children: list[subprocess.Popen]) -> None:
    """Until they have ended; those that take too long are killed."""
    until = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdin:
            child.stdin.close()
