"""Work beside training, whose failure must not cost the result."""

from __future__ import annotations

import functools
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from loralab import console, signals
from loralab.files import printable
from loralab.ranks import OutOfStep

C = TypeVar("C", bound=Callback)
PREPARING = ("setup", "on_fit_start")
"""A callback that fails in one of these is not ready for the others; after any other failure it is tried again."""
HOOKS = (
    *(name for name in vars(Callback) if name.startswith("on_") and name != "on_load_checkpoint"),
    *("setup", "teardown", "state_dict"),
)
WRITES = ("log_metrics", "log_hyperparams", "log_graph", "save", "finalize")


class SideWork:
    """Every callback of the group `callbacks`, and every logger: all but health and training itself.

    What one of them raises is reported once, with its traceback in the log; the run continues, and the next time that
    it has something to do, it is tried again: a disk that was full may have room by then. Those that save come
    before the others (see conf/callbacks/default.yaml): nothing is drawn, measured or logged in the end before adapter
    and state are on the disk. Where a signal was received, loops that check for it (`signals.check`) end early.
    """

    def __init__(self) -> None:
        self.errors: dict[tuple[str, type], str] = {}
        """What failed, in words, by who and how."""
        threading.excepthook = self._in_a_thread  # loggers write by one

    def callback(self, name: str, callback: C) -> C:
        ready = [True]

        def guarded(hook: str) -> Callable[..., Any]:
            method = getattr(callback, hook)

            @functools.wraps(method)
            def run(*given: Any, **named: Any) -> Any:
                if not ready[0]:
                    return None
                try:
                    with self._reported(name):
                        return method(*given, **named)
                    ready[0] = hook not in PREPARING  # where an error was reported
                except signals.Interrupted:
                    if not (signals.is_patient() and hook.endswith("_end")):  # where Interrupt sees to it
                        raise
                return None

            return run

        for hook in HOOKS:
            if getattr(type(callback), hook) is not getattr(Callback, hook):
                setattr(callback, hook, guarded(hook))
        return callback

    def logger(self, name: str, make: Callable[[], Logger]) -> Logger | None:
        """A logger that is open; None where that fails."""
        logger = None
        with self._reported(name):
            made = make()
            for fact in ("experiment", "save_dir", "log_dir"):  # Lightning asks for them while it trains
                getattr(made, fact, None)
            logger = made

        def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(method)
            def run(*given: Any, **named: Any) -> None:
                with self._reported(name):
                    method(*given, **named)

            return run

        for write in WRITES:
            if hasattr(logger, write):
                setattr(logger, write, guarded(getattr(logger, write)))
        return logger

    @contextmanager
    def _reported(self, name: str) -> Iterator[None]:
        """Reports whatever is raised inside the block, also `sys.exit`; what ends the run is passed on."""
        try:
            yield
        except (signals.Interrupted, OutOfStep):
            raise
        except KeyboardInterrupt:  # the library has put a handler of its own in the place of ours
            signals.request(signal.SIGINT)
        except BaseException as error:
            self.report(name, error)

    def tell(self, words: str) -> None:
        """Reports a failure that raised no exception."""
        self.errors[words, str] = words
        print(f"error     {words}", file=sys.stderr)

    def report(self, name: str, error: BaseException) -> None:
        """Reports an error, by its cause, the first time that its kind occurs."""
        cause = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        key = (name, type(cause))
        if key in self.errors:
            return
        words = f"{name} failed: {type(cause).__name__}: {_words(cause)}"
        self.errors[key] = "\n".join(map(printable, words.split("\n")))
        print(f"error     {self.errors[key].splitlines()[0]}; the run continues", file=sys.stderr)
        console.note("".join(traceback.format_exception(error)))

    def _in_a_thread(self, failed: threading.ExceptHookArgs) -> None:
        if isinstance(failed.exc_value, Exception):
            self.report(f"thread {failed.thread.name if failed.thread else ''}", failed.exc_value)


def _words(error: BaseException) -> str:
    try:
        return str(error).strip() or "no message"
    except Exception:  # one of its own
        return "no message"
