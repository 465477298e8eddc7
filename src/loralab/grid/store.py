"""The pictures that are drawn already: kept by what decides them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from loralab.callbacks.contact_sheet import save
from loralab.errors import user_error
from loralab.grid.cells import Cell
from loralab.report.pictures import DAMAGED

SETTINGS = "loralab"
"""The text of a picture that holds all that decides it, as JSON."""


class Store:
    """A folder of pictures. base: what decides them beside their own settings (Setup.base)."""

    def __init__(self, folder: Path, base: Mapping[str, str]) -> None:
        self.folder, self.base = folder, base

    def has(self, cell: Cell) -> bool:
        """Whether the picture is there, whole, and this one."""
        try:
            with Image.open(self._path(cell)) as image:
                found = image.info.get(SETTINGS)
                image.verify()
        except DAMAGED:
            return False
        return found == cell.settings(self.base)

    def put(self, cell: Cell, image: Image.Image) -> None:
        texts = {SETTINGS: cell.settings(self.base)}
        save(image, self._path(cell), cell.described(self.base["model"]), "--out", **texts)

    def get(self, cell: Cell) -> Image.Image:
        """The picture. Raises a UserError where it was damaged since it was drawn."""
        path = self._path(cell)
        try:
            with Image.open(path) as image:
                return image.convert("RGB")
        except DAMAGED:
            raise user_error(str(path), "is damaged", "delete it, and run the same command again") from None

    def _path(self, cell: Cell) -> Path:
        return self.folder / f"{cell.key(self.base)}.png"
