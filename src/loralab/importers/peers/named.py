"""Files that a settings file names: lists of folders, samples, networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from loralab.importers.foreign import Foreign


def named(foreign: Foreign, name: str, holds: Callable[[Any], bool], what: str, remedy: str) -> Any:
    """The data of the file that an option names; None where it names none, or one that is not here, which is reported.

    holds: whether the data are what they have to be, in words `what`. Raises a UserError where they are not.
    """
    if not foreign.has(name):
        return None
    path = Path(str(foreign.options[name]))
    if not any(place.exists() for place in (path, foreign.content.path.parent / path)):
        foreign.leave(name, f"the file is not found here: {remedy}")
        return None
    content = foreign.file_named_by(name)
    if content is None or not holds(content.data):
        raise foreign.error(name, f"does not name {what}", f"correct the path, or {remedy}")
    return content.data


def is_list(data: Any) -> bool:
    """Whether a file contains a list."""
    return isinstance(data, list)


def is_table(data: Any) -> bool:
    """Whether a file contains a table."""
    return isinstance(data, dict)
