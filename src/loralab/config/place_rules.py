"""Where files are read and written: what must be there, and the folders of images, which are never written to."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from loralab.config.tree import Tree, get
from loralab.data.index import keep_outside
from loralab.data.store import cache_folder
from loralab.errors import Problem, UserError

RUNS = {"hydra.run.dir": "outputs", "hydra.sweep.dir": "multirun"}
"""Where Hydra puts runs, unless told otherwise."""


def place_problems(tree: Tree) -> Iterator[Problem]:
    """What is wrong with the places that settings name."""
    for key, (path, is_folder) in _read(tree):
        place = Path(path).expanduser()
        if not (place.is_dir() if is_folder else place.is_file()):
            kind, other = ("folder", "file") if is_folder else ("file", "folder")
            found = f"is a {other}, not a {kind}" if place.exists() else "is not there"
            remedy = "check the path; a relative path starts at " + os.getcwd()
            yield Problem(key, f"'{path}' {found}", remedy)
    yield from _not_to_write_to(tree, _written(tree))


def run_problems(tree: Tree, overrides: list[str]) -> Iterator[Problem]:
    """What is wrong with where a training's own folder will be; overrides: of the command line, which may say where."""
    given = {key: value for key, _, value in (override.lstrip("+").partition("=") for override in overrides)}
    yield from _not_to_write_to(tree, ((key, given.get(key, usual)) for key, usual in RUNS.items()))


def _not_to_write_to(tree: Tree, written: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    images = [path for key, (path, _) in _read(tree) if not key.endswith(("metadata", "mask_folder"))]
    for key, path in written:
        place = Path(path).expanduser().absolute()
        try:
            keep_outside(images, place, key)
        except UserError as error:
            yield from error.problems
            continue
        if found := _unwritable(place):
            yield Problem(key, f"'{path}' {found}", "choose a folder that you may write to")


def _read(tree: Tree) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Setting → path, and whether it is one of a folder."""
    named = {"folder": True, "reg_folder": True, "validation.folder": True, "mask_folder": True, "metadata": False}
    given: list[tuple[str, Any, bool]] = [(f"data.{key}", get(tree, f"data.{key}"), f) for key, f in named.items()]
    for number, entry in enumerate(get(tree, "data.folders") or []):
        for key in ("path", "mask_folder", "metadata"):
            given.append((f"data.folders.{number}.{key}", get(entry, key), key != "metadata"))
    yield from ((key, (path, is_folder)) for key, path, is_folder in given if isinstance(path, str))


def _written(tree: Tree) -> Iterator[tuple[str, str]]:
    given = {key: get(tree, key) for key in ("output.folder", "settings.save_folder", "logger.tensorboard.save_dir")}
    given["data.cache_folder"] = str(cache_folder(_text(tree, "data.cache_folder")))
    latents = str(cache_folder(_text(tree, "data.cache.folder")))
    if get(tree, "data.cache.latents") == "disk" and latents != given["data.cache_folder"]:
        given["data.cache.folder"] = latents
    yield from ((key, path) for key, path in given.items() if isinstance(path, str))


def _text(tree: Tree, key: str) -> str | None:
    value = get(tree, key)
    return value if isinstance(value, str) else None


def _unwritable(folder: Path) -> str | None:
    existing = next((p for p in (folder, *folder.parents) if p.exists()), Path("."))
    if not existing.is_dir():
        return f"cannot be a folder: {existing} is a file"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"is not writable ({existing})"
