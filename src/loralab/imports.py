"""How the libraries of a training are imported: large ones, which take most of the time until its first step."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

is_own_process = False
"""Whether nothing but loralab runs in this process, so that libraries need not find what it does not use."""


@contextmanager
def importing() -> Iterator[None]:
    """Within it no garbage is collected, nor later among what is there at its end: modules stay, and each collection
    would look through all of them."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def without(*packages: str) -> Iterator[None]:
    """Within it these packages are not found where they are not imported yet: some libraries import whatever is
    installed, for uses that a training has not.

    None in `sys.modules` says so (Python Language Reference, 5.3.1).
    """
    hidden = [name for name in packages if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
