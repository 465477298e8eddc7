"""Signals that ask the process to end: Ctrl-C, SIGTERM, SIGHUP (a closed terminal), SIGUSR1 and SIGUSR2 (schedulers).

By default a signal ends the process at once, by an exception with the exit code that shells expect. What must not be
interrupted is done under `held`: a signal then waits for its end. A training is `patient`: it checks between two steps
whether a signal was received, and only a second one interrupts it. Long loops of side work call `check`. Handlers never
use `print`, as they may interrupt one.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import FrameType

from loralab.console import is_first

NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK", "SIGUSR1", "SIGUSR2")
ENDING = tuple(getattr(signal, name) for name in NAMES if hasattr(signal, name))
EXIT_CODES = tuple(128 + number for number in ENDING)
SAME = 1.0
"""Seconds within which a further signal is the same request: it is often sent to a process and to its group."""


class Interrupted(SystemExit):
    """A signal asks the process to end. The exit code is 128 + its number."""

    def __init__(self, received: signal.Signals) -> None:
        super().__init__(128 + received)
        self.signal = received

    def __str__(self) -> str:
        return self.signal.name


class _Requests:
    """The signals received and how they are handled; one per process."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.last = 0.0
        self.handled: tuple[signal.Signals, ...] = ()
        self.holding = self.waiting = False
        self.patient = False
        self.announcement = ""
        self.relay: Callable[[int], object] | None = None

    def listen(self) -> None:
        for number in self.handled:
            signal.signal(number, self.handle)

    def handle(self, number: int, frame: FrameType | None) -> None:
        now, first = time.monotonic(), self.received is None
        if not first and now - self.last < SAME:
            return
        self.last = now
        if first:
            self.received = signal.Signals(number)
        if self.relay:
            self.relay(number)
        elif first and self.patient:
            _say(f"\n{signal.Signals(number).name}: {self.announcement}\n")
        elif self.holding:
            self.waiting = True
        else:
            self.raise_it()

    def raise_it(self) -> None:
        self.waiting = False
        assert self.received is not None
        raise Interrupted(self.received)


_requests = _Requests()


def received() -> signal.Signals | None:
    """The first signal that asked this process to end."""
    return _requests.received


def is_patient() -> bool:
    return _requests.patient


def request(number: signal.Signals) -> None:
    """Asks the process to end, as if the signal had been received."""
    _requests.handle(number, None)


def check() -> None:
    """Raises Interrupted where a signal was received."""
    if _requests.received is not None:
        _requests.raise_it()


def be_patient(announcement: str | None) -> None:
    """From now on the first signal is only recorded and answered with the announcement; None: no longer."""
    _requests.listen()  # Lightning has installed a handler of its own
    _requests.patient, _requests.announcement = announcement is not None, announcement or ""


@contextmanager
def listening(for_good: bool = False) -> Iterator[None]:
    """Within it the ending signals are handled as described above; for_good: after it they are ignored.

    After it a scheduler's own handler is called, if it has set one for the signal received: it may queue the job again.
    """
    if _requests.handled or threading.current_thread() is not threading.main_thread():
        yield
        return
    _requests.__init__()
    before = {number: signal.getsignal(number) for number in ENDING}
    ignored = [number for number in ENDING if number.name == "SIGHUP" and before[number] == signal.SIG_IGN]  # nohup
    _requests.handled = tuple(number for number in ENDING if number not in ignored)
    _requests.listen()
    try:
        yield
    finally:
        be_patient(None)
        _requests.handled = ()
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if for_good else handler)
        received = _requests.received
        if received and received.name.startswith("SIGUSR") and callable(scheduler := before[received]):
            scheduler(received, None)


@contextmanager
def held() -> Iterator[None]:
    """Within it no signal interrupts; one that was received is handled at its end."""
    before = _requests.holding
    hold()
    try:
        yield
    finally:
        release(before)


def hold() -> None:
    """Starts a section that no signal interrupts, until `release`; within one function, use `held`."""
    _requests.holding = True


def release(holding: bool = False) -> None:
    _requests.holding = holding
    if _requests.waiting and not holding:
        _requests.raise_it()


@contextmanager
def relayed(send: Callable[[int], object]) -> Iterator[None]:
    """Within it signals are passed on to another process, and only recorded here."""
    _requests.relay = send
    try:
        yield
    finally:
        _requests.relay = None


@contextmanager
def masked() -> Iterator[None]:
    """Processes and threads started within it never see the ending signals: their parent decides when they end.

    Whoever signals a whole group ends a run by its first process, which needs the others until then.
    """
    _kill_at_exit()
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which sends none to a process's children
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@cache
def _kill_at_exit() -> None:
    """Kills worker processes at exit: multiprocessing would send SIGTERM and wait."""

    @atexit.register
    def kill() -> None:
        for process in multiprocessing.active_children():
            if process.daemon:
                process.kill()


def _say(words: str) -> None:
    if is_first():
        with suppress(OSError):  # standard error is closed
            os.write(2, words.encode())
