"""How fast a run trains."""

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
