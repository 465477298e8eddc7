"""Paths to read, which must exist, and paths to write, which must not be in the folders of images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from loralab.data.index.index import keep_outside
from loralab.data.sources.mounts import in_shards
from loralab.errors import Problem, UserError
from loralab.files import cache_folder, what_is_at
from loralab.places import (
    full,
    invisible_characters,
    not_for_windows,
    output_folder,
    shortened,
    too_long,
    unusable,
)
from loralab.schema.tree import Tree, get
from loralab.training import file_names
from loralab.urls import is_url, plain, unusable_url
from loralab.writing import part_name

_LONGEST = 100
"""Bytes of `run.name`, to which a time and a number are added."""
_OWN = "give a folder of this machine, and the URL as data.cache.share"
ON_A_DISK = {
    "data.cache_folder": _OWN,
    "data.cache.folder": _OWN,
    "resume_root": "remove it: with output.folder=URL, resume=auto looks there, too",
}
"""Setting → what to do where it is a URL."""
EXTENSIONS = (".safetensors", ".ckpt", ".pt", ".bin")


def place_problems(tree: Tree) -> Iterator[Problem]:
    """Problems of the paths in the settings."""
    for key, (path, is_folder) in _read(tree):
        if is_url(path):
            if found := unusable_url(path):
                yield Problem(key, *found)
            continue
        place = os.path.expanduser(path)
        if not (os.path.isdir(place) if is_folder else os.path.isfile(place)) and not in_shards(path):
            found = what_is_at(place)
            if os.path.exists(place):
                found += f", not a {'folder' if is_folder else 'file'}"
            remedy = "check the path; a relative path starts at " + os.getcwd()
            yield Problem(key, f"'{shortened(path)}' {found}", remedy)
    yield from _on_a_disk(tree)
    yield from _shared_cache(tree)
    yield from _run_name(tree)
    found = list(written_problems(tree, _written(tree)))
    yield from found
    yield from _output_name(tree, "output.folder" not in {problem.setting for problem in found})


def place_notes(tree: Tree) -> Iterator[str]:
    """Notes about names that can cause trouble later."""
    name = get(tree, "output.name")
    if isinstance(name, str) and (found := not_for_windows(name)):
        yield f"output.name: '{name}' {found}, so that the file cannot be copied to Windows"


def written_problems(tree: Tree, written: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    """Problems of (setting, path) pairs to write to: paths that are unusable, or in a folder of images."""
    images = [path for key, (path, _) in _read(tree) if not key.endswith(("metadata", "mask_folder"))]
    for key, path in written:
        if key == "output.folder" and is_url(plain(path)):
            if found := unusable_url(plain(path)):
                yield Problem(key, *found)
            continue
        if found := unusable(path):
            yield Problem(key, f"'{shortened(path)}' {found[0]}", found[1])
            continue
        try:
            keep_outside(images, full(path), key)
        except UserError as error:
            yield from error.problems


def logged(tree: Tree, run_folder: Path | None = None) -> Iterator[tuple[str, str]]:
    """(setting, path) where loggers write: of those with a save_dir; given run_folder, of those that write into it."""
    for name, node in (get(tree, "logger") or {}).items():
        own, inner = get(node, "save_dir"), get(node, "name")
        key = f"logger.{name}.save_dir" if own else f"logger.{name}.name"
        if isinstance(folder := own if run_folder is None else None if own else str(run_folder), str):
            is_folder = isinstance(inner, str) and "wandb" not in str(get(node, "_target_")).lower()
            yield key, os.path.join(folder, inner) if is_folder else folder


def _output_name(tree: Tree, with_folder: bool) -> Iterator[Problem]:
    name, format = get(tree, "output.name"), str(get(tree, "output.format"))
    if not isinstance(name, str):
        return
    if found := _not_a_name(name):
        yield Problem("output.name", f"{name!r} {found}", "give a file name without folders or extension")
        return
    if not with_folder:
        return
    folder = output_folder(get(tree, "output.folder"), full(get(tree, "resume_root") or "."))
    longest = part_name(file_names.longest(name, format))
    if found := too_long(folder / longest):
        size = len(os.fsencode(name))
        more = len(os.fsencode(longest)) - size
        words = f"has {size} bytes; with the {more} added for step, extension and temporary file, the file name"
        yield Problem("output.name", f"{words} {found[0]}", found[1])


def _on_a_disk(tree: Tree) -> Iterator[Problem]:
    """Of URLs where folders are meant: several processes write to a cache at once, and states are looked for."""
    told = set()
    for key, remedy in ON_A_DISK.items():
        if is_url(path := plain(_text(tree, key) or "")) and path not in told:  # one cache folder is that of the other
            told.add(path)
            yield Problem(key, f"'{path}' is a URL, not a path", remedy)


def _shared_cache(tree: Tree) -> Iterator[Problem]:
    if not (url := plain(_text(tree, "data.cache.share") or "")):
        return
    if not is_url(url):
        remedy = "machines share a folder of a common disk by data.cache.folder"
        yield Problem("data.cache.share", f"'{shortened(url)}' is a path, not a URL", remedy)
    elif found := unusable_url(url):
        yield Problem("data.cache.share", *found)
    elif get(tree, "data.cache.latents") != "disk":
        found = f"cannot be combined with data.cache.latents={get(tree, 'data.cache.latents')}"
        yield Problem("data.cache.share", found, "set data.cache.latents=disk, or remove it")


def _run_name(tree: Tree) -> Iterator[Problem]:
    """Of a name that cannot be part of a folder's name; a number can."""
    name = get(tree, "run.name")
    found = _not_a_name(name) if isinstance(name, str) else None
    if found or (isinstance(name, str) and len(os.fsencode(name)) > _LONGEST):
        yield Problem("run.name", f"{name!r:.80} {found or 'is too long'}", "give a short name without slashes")


def _not_a_name(name: str) -> str | None:
    if not name or "/" in name or "\\" in name or name in (".", ".."):
        return "is not a file name"
    if name.lower().endswith(EXTENSIONS):
        return "ends in an extension, which output.format adds"
    if invisible := invisible_characters(name):
        return f"contains the invisible characters {invisible}"
    return "starts or ends with a space" if name != name.strip() else None


def _read(tree: Tree) -> Iterator[tuple[str, tuple[str, bool]]]:
    """(setting, (path, whether it must be a folder)) of every path that is read."""
    named = {"folder": True, "reg_folder": True, "validation.folder": True, "mask_folder": True, "metadata": False}
    given: list[tuple[str, Any, bool]] = [(f"data.{key}", get(tree, f"data.{key}"), f) for key, f in named.items()]
    for number, entry in enumerate(get(tree, "data.folders") or []):
        for key in ("path", "mask_folder", "metadata"):
            given.append((f"data.folders.{number}.{key}", get(entry, key), key != "metadata"))
    yield from ((key, (plain(path), is_folder)) for key, path, is_folder in given if isinstance(path, str))


def _written(tree: Tree) -> Iterator[tuple[str, str]]:
    given = {key: get(tree, key) for key in ("output.folder", "settings.save_folder")} | dict(logged(tree))
    given["data.cache_folder"] = str(cache_folder(_text(tree, "data.cache_folder")))
    latents = str(cache_folder(_text(tree, "data.cache.folder")))
    if get(tree, "data.cache.latents") == "disk" and latents != given["data.cache_folder"]:
        given["data.cache.folder"] = latents
    yield from ((key, path) for key, path in given.items() if isinstance(path, str))


def _text(tree: Tree, key: str) -> str | None:
    value = get(tree, key)
    return value if isinstance(value, str) else None
