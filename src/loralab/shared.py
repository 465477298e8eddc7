"""What the runs of a sweep in one process hand on to each other: the loaded base model and its cached latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from loralab.files import stamp

if TYPE_CHECKING:
    from loralab.memory.plan import Plan

T = TypeVar("T")


class Shared:
    """Objects by name, each with the settings that it was built from; and how all the runs fit into memory, where that
    is limited."""

    def __init__(self, plan: Plan | None = None) -> None:
        self.plan = plan
        self._kept: dict[str, tuple[Any, Any]] = {}

    def take(self, name: str, settings: Any, build: Callable[[], T]) -> T:
        """What an earlier run has kept if its settings were the same, else a new one.

        It is not kept any longer, so that nothing is left of a run that fails, and never two of a name in memory.
        """
        before, thing = self._kept.pop(name, (None, None))
        if thing is not None and before == settings:
            return thing
        del thing
        return build()

    def keep(self, name: str, settings: Any, thing: Any) -> None:
        """For the next run, as it was when it was built."""
        self._kept[name] = settings, thing


def base_of(settings: dict[str, Any]) -> Any:
    """What decides the loaded base model: its settings, and the time stamps of the files that they name."""
    paths = (Path(value).expanduser() for value in settings["model"].values() if isinstance(value, str))
    files = [file for path in paths for file in ([path] if path.is_file() else sorted(path.rglob("*")))]
    return settings["model"], [stamp(file.stat()) for file in files if file.is_file()]
