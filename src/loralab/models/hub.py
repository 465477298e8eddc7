"""Models from the Hugging Face Hub, or by URL: from a local copy, else downloaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from hashlib import blake2b
from pathlib import Path

from loralab import remote
from loralab.errors import user_error
from loralab.models.probe import TOKENIZERS, choose_weights, copies_of, inside, on_disk
from loralab.models.row import Row
from loralab.progress import progress
from loralab.urls import is_url, plain
from loralab.writing import atomic_folder, in_turn, writing

TOKENIZER = ("tokenizer", "tokenizer_2", "")
"""Folders of a repository that may hold what is wanted; "" is its root."""


def folders(row: Row, parts: Collection[str]) -> tuple[str, ...]:
    """Those of a model of a family, with the weights of these parts and the "vae"."""
    tokenizers = (part.replace("text_encoder", "tokenizer") for part in row.text_encoders)
    return (*parts, *tokenizers, *TOKENIZERS, "scheduler", "")


def locate(
    path: str, setting: str, look: Callable[[Path], object], folders: tuple[str, ...], weights: bool = True
) -> Path:
    """Where a path, Hub id or URL is on this disk, downloaded if necessary; `look` as in `models.probe.on_disk`.

    Raises UserError where it is neither here nor can be downloaded.
    """
    if is_url(plain(path)):
        copy = _copy(plain(path), setting, folders, weights)
        look(copy)
        return copy
    return on_disk(path, setting, look) or _fetch(path, setting, folders, weights)


def _fetch(repository: str, setting: str, folders: tuple[str, ...], weights: bool) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    print(f"downloading  {repository} from the Hub", file=sys.stderr)
    try:
        chosen = needed(HfApi().list_repo_files(repository), folders, weights)
        return Path(snapshot_download(repository, allow_patterns=chosen))
    except Exception as error:  # not found, gated, no network: each its own class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        remedy = "give a local path, or download it once while online"
        raise user_error(setting, f"'{repository}' could not be downloaded from the Hub: {reason}", remedy) from error


def _copy(url: str, setting: str, folders: tuple[str, ...], weights: bool) -> Path:
    """A copy of a model by URL as it is now; one that is complete is used again."""
    found = {entry.url[len(url) + 1 :]: entry for entry in remote.files(url, setting)}
    if not found:
        raise user_error(setting, f"'{url}' was not found", "check the URL, and the endpoint")
    wanted = found if "" in found else {name: found[name] for name in needed(list(found), folders, weights)}
    state = blake2b(repr(sorted(wanted.items())).encode(), digest_size=8).hexdigest()
    place = copies_of(url) / state
    with writing(place, "data.cache_folder"):
        place.parent.mkdir(parents=True, exist_ok=True)
    with in_turn(place.parent / ".lock"):
        if not place.is_dir():
            size = sum(entry.size for entry in wanted.values())
            words = f"downloading {url}"
            with atomic_folder(place, "data.cache_folder") as beside, progress(words, size, "bytes") as advance:
                beside.mkdir()
                for name, entry in wanted.items():
                    file = beside / (name or url.rpartition("/")[2])
                    file.parent.mkdir(parents=True, exist_ok=True)
                    remote.download(entry, file, setting, advance)
    return inside(place, url)


def needed(files: list[str], folders: tuple[str, ...], weights: bool) -> list[str]:
    """A repository's files to download: configs and vocabularies, and one set of weights for each component."""
    chosen = []
    for folder in folders:
        names = [Path(file).name for file in files if str(Path(file).parent) == (folder or ".")]
        wanted = [name for name in names if name.endswith((".json", ".txt"))]
        first = choose_weights(names) if weights else None
        if first is not None:
            stem = first.partition(".")[0]
            shards = [name for name in names if name.startswith(f"{stem}-")] if first.endswith(".json") else []
            wanted += [first, *shards]
        chosen += [f"{folder}/{name}" if folder else name for name in wanted]
    return sorted(set(chosen))
