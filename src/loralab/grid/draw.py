"""Draws pictures of a grid with the base model and its adapters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from loralab.adapters import file
from loralab.adapters.attach import attach
from loralab.adapters.keys import NO_MODULE, Table
from loralab.callbacks.sampling import sampled
from loralab.errors import UserError, user_error
from loralab.files import printable
from loralab.grid.cells import Cell
from loralab.grid.choose import Checkpoint
from loralab.grid.setup import Setup
from loralab.grid.store import Store
from loralab.models.family import Family
from loralab.models.registry import FAMILIES, Row, of_model
from loralab.progress import progress
from loralab.run import instantiate
from loralab.tools.adapter import know
from loralab.tools.inspect import family_of

AUTOCAST = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}
"""By trainer.precision."""


def check(checkpoints: Sequence[Checkpoint], setup: Setup, allow: Sequence[str]) -> None:
    """Raises a UserError, before a model is loaded, for a file that is damaged or of another model family."""
    row = of_model(setup.model)
    ours = row and _family(row.name)
    for checkpoint in checkpoints:
        know(checkpoint.path, allow)
        found = file.look(checkpoint.path, setting=str(checkpoint.path))
        for note in found.notes:
            print(f"note: {printable(note)}", file=sys.stderr)
        theirs = _family(family_of(found.groups))
        if ours and theirs and theirs.name != ours.name:
            words = f"is an adapter for {theirs.title}, but the base model is {ours.title}"
            options = " or ".join(f"model={option}" for option in theirs.options)
            raise user_error(str(checkpoint.path), words, f"give {options}, or draw a grid of its own")
        # whether the model has the modules, the loaded one tells: miniatures have others
        if problems := [problem for problem in found.problems if NO_MODULE not in problem.found]:
            raise UserError(*problems)


def draw(cells: Sequence[Cell], setup: Setup, store: Store, count: Callable[[], None]) -> None:
    """Draws and keeps pictures, those of each adapter together; calls `count` after each."""
    family: Family = instantiate(setup.model)
    device = _device(setup.accelerator)
    for module in (*family.parts().values(), family.vae):
        module.to(device)
    table = {part: family.targets(part) for part in family.parts()}
    by_file = {name: [*group] for name, group in groupby(sorted(cells, key=_order), _path)}
    for path in filter(None, by_file):  # before the first picture: whether each fits
        attach(family, _groups(path, table), path).remove()
    with progress("drawing", len(cells), "pictures") as advance:
        for path, group in by_file.items():
            adapters = attach(family, _groups(path, table), path) if path else None
            for strength, same in groupby(group, lambda cell: cell.strength):
                if adapters:
                    adapters.set_strength(strength)
                for cell, image in _pictures(family, [*same], setup.precision):
                    store.put(cell, image)
                    advance(1)
                    count()
            if adapters:
                adapters.remove()


def _pictures(family: Family, cells: Sequence[Cell], precision: str) -> Iterator[tuple[Cell, Any]]:
    """Pictures in the precision that the runs drew theirs in."""
    dtype = AUTOCAST.get(precision)
    images = sampled(family, [cell.prompt for cell in cells])
    for cell in cells:
        with torch.no_grad(), torch.autocast(family.device.type, dtype, enabled=dtype is not None):
            image = next(images)
        yield cell, image


def _order(cell: Cell) -> tuple[str, float]:
    return _path(cell), cell.strength


def _path(cell: Cell) -> str:
    return str(cell.checkpoint.path) if cell.checkpoint else ""


def _groups(path: str, table: Table) -> Any:
    return file.load(Path(path), table, path).groups


def _family(name: str | None) -> Row | None:
    """The family of this name, or that of which it is a miniature."""
    return next((row for row in FAMILIES.values() if name in (row.name, *(m.name for m in row.miniatures))), None)


def _device(accelerator: str) -> torch.device:
    """Of trainer.accelerator; auto: an accelerator where there is one."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator == "cpu" or found is None else found
