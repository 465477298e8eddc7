"""Work beside training, whose failure must not cost the result."""

from __future__ import annotations

import functools
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from loralab import console, signals

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

    What one of them raises is reported once, with its traceback in the log, and the run goes on; the next time that it
    has something to do, it is tried again: a disk that was full may have room by then. Those that save come
    before the others (see conf/callbacks/default.yaml): nothing is drawn, measured or logged in the end before adapter
    and state are on the disk. Where a signal was received, loops that look for it (`signals.check`) are cut short.
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
                    return method(*given, **named)
                except signals.Interrupted:
                    if not (signals.is_patient() and hook.endswith("_end")):  # where Interrupt sees to it
                        raise
                except Exception as error:
                    self.report(name, error)
                    ready[0] = hook not in PREPARING
                return None

            return run

        for hook in HOOKS:
            if getattr(type(callback), hook) is not getattr(Callback, hook):
                setattr(callback, hook, guarded(hook))
        return callback

    def logger(self, name: str, make: Callable[[], Logger]) -> Logger | None:
        """A logger that is open; None where that fails."""
        try:
            logger = make()
            _ = getattr(logger, "experiment", None)
        except Exception as error:
            return self.report(name, error)

        def guarded(method: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(method)
            def run(*given: Any, **named: Any) -> None:
                try:
                    method(*given, **named)
                except Exception as error:
                    self.report(name, error)

            return run

        for write in WRITES:
            if hasattr(logger, write):
                setattr(logger, write, guarded(getattr(logger, write)))
        return logger

    def tell(self, words: str) -> None:
        """Tells of a loss that no exception stands for."""
        self.errors[words, str] = words
        print(f"error     {words}", file=sys.stderr)

    def report(self, name: str, error: Exception) -> None:
        """Tells of an error, by what caused it, the first time that its kind comes."""
        cause = error
        while isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        key = (name, type(cause))
        if key in self.errors:
            return
        words = str(cause).strip() or "no message"
        self.errors[key] = f"{name} failed: {type(cause).__name__}: {words}"
        print(f"error     {self.errors[key].splitlines()[0]}; the run goes on", file=sys.stderr)
        console.note("".join(traceback.format_exception(error)))

    def _in_a_thread(self, failed: threading.ExceptHookArgs) -> None:
        if isinstance(failed.exc_value, Exception):
            self.report(f"thread {failed.thread.name if failed.thread else ''}", failed.exc_value)
