"""All model families, and which one a model or a file is of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from loralab.models import families
from loralab.models.row import FAMILIES, Blocks, Part, Row, Table, register

__all__ = ["BLOCKS", "FAMILIES", "USUAL", "Blocks", "Part", "Row", "Table", "register"]

for _folder in iter_modules(families.__path__, f"{families.__name__}."):
    import_module(_folder.name)  # where its rows register themselves

USUAL = [*FAMILIES.values()][-1]
"""What a settings file or an adapter that names no family is of."""

BLOCKS = tuple(dict.fromkeys(row.blocks for row in FAMILIES.values() if row.blocks))
"""Of the families that have a list of blocks."""


def with_miniatures() -> Iterator[Row]:
    """All families, then those of their models that have a title of their own."""
    yield from FAMILIES.values()
    for row in FAMILIES.values():
        yield from row.miniatures


def of_model(model: Mapping[str, Any]) -> Row | None:
    """The family of a composed `model` node."""
    rows = [row for row in with_miniatures() if row.loader == model.get("_target_")]
    return next((row for row in rows if row.name == model.get("family")), rows[-1] if rows else None)


def of_adapter(keys: Iterable[str], part: str | None = None) -> Row:
    """The family of an adapter file, as far as its keys show; part: the one that all its keys are of."""
    keys = list(keys)
    return next((row for row in FAMILIES.values() if row.is_of_adapter(keys, part)), USUAL)


def of_option(option: str | None) -> Row | None:
    """The family that an option of the group model loads."""
    return next((row for row in with_miniatures() if option in row.options), None)


def named() -> str:
    """All families, for messages."""
    *names, last = [row.short for row in reversed(FAMILIES.values())]
    return f"{', '.join(names)} or {last}"
