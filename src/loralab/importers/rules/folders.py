"""A dataset configuration: each subset becomes an entry of data.folders."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from loralab.importers.content import shown
from loralab.importers.dialects.dataset_toml import (
    ABSENT,
    DATA,
    DATA_ABSENT,
    FOLDER,
    IMAGES,
    WITHOUT,
    kind_of,
    of_musubi,
)
from loralab.importers.dialects.defaults import SD_SCRIPTS
from loralab.importers.foreign import SPECIAL, Foreign, Left
from loralab.importers.rules.data import LIMITS, NO_TOTAL, suits, warmup_steps
from loralab.importers.rules.ours import Ours
from loralab.schema.nearest import nearest


def folders(foreign: Foreign, ours: Ours) -> None:
    if foreign.datasets is None:
        return
    general = _table(foreign, "general", foreign.datasets.get("general", {}))
    entries: list[dict[str, Any]] = []
    tables: list[dict[str, Any]] = []
    shared: dict[str, list[tuple[str, Any]]] = {}
    musubi = of_musubi(foreign.datasets)
    for place, dataset in _tables(foreign, "datasets", foreign.datasets.get("datasets", [])):
        inner = list(_tables(foreign, f"{place}.subsets", dataset.get("subsets", [])))
        subsets = inner if inner or not musubi else [(place, {})]
        own = {key: value for key, value in dataset.items() if key != "subsets"}
        for where, table in (("general", general), (place, own), *subsets):
            _report(foreign, where, table)
            for key in DATA.keys() & table.keys():
                if (value := foreign.valid(f"{where}.{key}", table[key], kind_of(key))) is not None:
                    shared.setdefault(key, []).append((f"{where}.{key}", value))
        tables += [{**general, **own, **subset} for _, subset in subsets]
        absent = {} if foreign.absent or musubi else ABSENT
        entries += [_entry(foreign, ours, where, {**absent, **general, **own, **subset}) for where, subset in subsets]
    if entries:
        ours.choose("data", "folder", "dataset_config")
        ours.drop("data.folder")
        ours.set("data.folders", _unique(entries), "dataset_config")
    elif foreign.dialect == "easy-toml":
        foreign.warnings.append("names no images: set data.folder")
    else:
        raise foreign.error("datasets", "contains no subsets, so no images", "add [[datasets.subsets]] with image_dir")
    _shared(foreign, ours, shared)
    _limits(foreign, ours, foreign.absent or ({} if musubi else SD_SCRIPTS))
    for key in sorted(key for key in shared if not all(key in table for table in tables)):
        foreign.warnings.append(f"sets {key} for a part of the data: here it applies to all of it")


def _entry(foreign: Foreign, ours: Ours, where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    if not any(table.get(key) for key in IMAGES):
        near = nearest("image_dir", map(str, table), 0.7)
        remedy = (
            f"did you mean image_dir instead of {shown(near)}?" if near else "give the folder of the subset's images"
        )
        raise foreign.error(f"{where}.image_dir", "is missing", remedy)
    entry: dict[str, Any] = {}
    for key, target in FOLDER.items():
        if key not in table or (table[key] == "" and key != "class_tokens"):
            continue
        group, _, name = target.rpartition(".")
        if (value := foreign.valid(f"{where}.{key}", table[key], kind_of(key))) is None:
            continue
        if key == "token_warmup_step" and (value := warmup_steps(foreign, ours, value)) is None:
            foreign.left.append(Left(f"{where}.{key}", table[key], NO_TOTAL))
            continue
        (entry.setdefault(group, {}) if group else entry)[name] = value
    if "path" not in entry and "metadata" in entry:
        entry["path"] = _folder_of(entry["metadata"])
        note = f"lists images by {shown(entry['metadata'])}: all in {shown(entry['path'])} are trained"
        foreign.warnings.append(note)
    return entry


def _folder_of(listed: str) -> str:
    """The folder that contains all images of a JSONL file; that of the file itself where it is not here."""
    try:
        with open(os.path.expanduser(listed), encoding="utf8") as file:
            names = [json.loads(line)["image_path"] for line in file if line.strip()]
        return os.path.commonpath(list(map(os.path.dirname, names)))
    except (OSError, ValueError, KeyError, TypeError):
        return os.path.dirname(listed) or "."


def _shared(foreign: Foreign, ours: Ours, shared: dict[str, list[tuple[str, Any]]]) -> None:
    """Settings with one value for all data: every resolution is trained; of other settings the first is used."""
    for key, target in DATA.items():
        found = shared.get(key, [])
        values = _unique([value for _, value in found])
        if not values:
            if key in DATA_ABSENT and foreign.absent == {}:
                ours.set(target, DATA_ABSENT[key], "dataset_config")
            continue
        foreign.leave(key, "overridden by the dataset configuration")
        if key == "resolution" and len(values) > 1:
            foreign.warnings.append("has several resolutions: every folder is trained at each of them")
            ours.set(target, [size if isinstance(size, list) else [size, size] for size in values], "dataset_config")
            continue
        ours.set(target, values[0], "dataset_config")
        for where, value in found:
            if value != values[0]:
                foreign.left.append(
                    Left(
                        where, value, f"only one value is supported for all data: {values[0]} of {found[0][0]} is used"
                    )
                )


def _limits(foreign: Foreign, ours: Ours, usual: Mapping[str, Any]) -> None:
    """The trainer's usual limits of buckets, where they are compatible with the resolutions, and their steps."""
    if ours.values.get("data.buckets.enabled") is not True:
        return
    if DATA["bucket_reso_steps"] not in ours.values and "bucket_reso_steps" in foreign.absent:
        ours.set(DATA["bucket_reso_steps"], usual["bucket_reso_steps"], "dataset_config")
    sizes = ours.values.get("data.resolution")
    several = sizes if isinstance(sizes, list) and isinstance(sizes[0], list) else [sizes]
    for name, limit in LIMITS.items():
        if name in usual and DATA[name] not in ours.values and suits(usual[name], limit, several):
            ours.set(DATA[name], usual[name], "dataset_config")


def _report(foreign: Foreign, where: str, table: Mapping[str, Any]) -> None:
    for key, value in table.items():
        place = f"{where}.{key}"
        if key in FOLDER or key in DATA:
            foreign.datasets_taken.add(place)
        if place in foreign.datasets_taken or place in {left.key for left in foreign.left} or place in foreign.unknown:
            continue
        if SPECIAL.fullmatch(key):
            raise foreign.builds(place)
        near = {name.lower(): name for name in (*FOLDER, *DATA)}.get(key.lower())
        if near:
            raise foreign.error(place, "wrong capitalisation", f"write {near}")
        if key in WITHOUT:
            foreign.left.append(Left(place, value, WITHOUT[key]))
        else:
            foreign.unknown.append(place)


def _tables(foreign: Foreign, where: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    if not isinstance(value, list):
        raise foreign.error(where, "is not a list of tables", f"write [[{where}]]")
    for number, table in enumerate(value):
        yield f"{where}.{number}", _table(foreign, f"{where}.{number}", table)


def _table(foreign: Foreign, where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise foreign.error(where, "is not a table", "write key = value lines below its heading")
    return value


def _unique(values: list[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]
