"""What the check says of overrides."""

from __future__ import annotations

from loralab.command.prepare import prepare
from loralab.errors import UserError


def problems(*overrides: str) -> str:
    """All problems as one text; empty where nothing is wrong."""
    try:
        prepare(list(overrides))
    except UserError as error:
        return str(error)
    return ""
