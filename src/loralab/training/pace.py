"""How fast a run trains, and how long it still takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """Images trained on and the seconds that it took; pauses for pictures, validation and files don't count."""

    def __init__(self) -> None:
        self.images = 0
        self._running = 0.0
        self._since: float | None = None

    def start(self) -> None:
        self._since = time.perf_counter()

    def count(self, images: int) -> None:
        self.images += images

    @property
    def seconds(self) -> float:
        return self._running + (0.0 if self._since is None else time.perf_counter() - self._since)

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds if self.seconds else 0.0

    def stop(self) -> None:
        self._running, self._since = self.seconds, None

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Stops the clock, where it runs."""
        running = self._since is not None
        self.stop()
        try:
            yield
        finally:
            if running:
                self.start()


class TimeLeft:
    """Of a run, by the time that its steps took so far: pauses count, the first step, which takes longer, doesn't."""

    def __init__(self) -> None:
        self._begun: tuple[float, int] | None = None

    def seconds(self, step: int, steps: float) -> float | None:
        """After `step` of `steps`; None where that is not known yet."""
        now = time.monotonic()
        begun, first = self._begun = self._begun or (now, step)
        return (now - begun) / (step - first) * (steps - step) if step > first else None
