"""Training states by URL: found in a bucket, and copied to the cache folder."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory

from loralab import remote
from loralab.errors import user_error
from loralab.files import cache_folder
from loralab.remote import Entry
from loralab.training.marker import MARKER, TENSORS, DamagedState, State, read
from loralab.training.signature import Signature, differences
from loralab.training.state import below, readable
from loralab.urls import plain
from loralab.writing import atomic_folder


def fetched(url: str, setting: str) -> str:
    """The newest state of a run's folder by URL, or the state of that URL, copied to the cache folder.

    Raises a UserError where there is none.
    """
    states = _complete(url, setting)
    if not states:
        raise user_error(setting, f"'{url}' contains no training state", "give the folder of a run, or of a state")
    return str(_copied(states[max(states)], setting))


def newest(url: str, setting: str, signature: Signature, roots: Sequence[Path]) -> list[Path]:
    """A root of the newest whole state below a URL, copied to the cache folder: of the signature, else of any; none
    where there is none, or where it is on this disk, under the roots."""
    here = {state.digest for state in filter(None, map(readable, below(roots)))}
    for state, files in _newest_first(_complete(url, setting), setting, signature):
        if state.digest in here:
            return []
        try:
            place = read(_copied(files, setting)).check().path
        except DamagedState as why:
            print(f"resume: {files[0].url.rpartition('/')[0]} {why}; skipped, trying the one before it", flush=True)
            continue
        print(f"resume: found {files[0].url.rpartition('/')[0]}", flush=True)
        return [place.parent.parent]
    return []


def _complete(url: str, setting: str) -> dict[str, list[Entry]]:
    """The files of each state at or below a URL, by its folder."""
    states: dict[str, list[Entry]] = {}
    for entry in remote.files(plain(url), setting):
        folder = entry.url.rpartition("/")[0]
        if folder.rpartition("/")[0].endswith("/states"):
            states.setdefault(folder, []).append(entry)
    return {folder: files for folder, files in states.items() if {MARKER, TENSORS} <= {_name(file) for file in files}}


def _newest_first(
    states: dict[str, list[Entry]], setting: str, signature: Signature
) -> list[tuple[State, list[Entry]]]:
    """States with valid markers, those of the signature first; of the rest nothing is downloaded."""
    found = []
    with TemporaryDirectory() as place:
        for number, files in enumerate(states.values()):
            folder = Path(place, str(number))
            folder.mkdir()
            (marker,) = (file for file in files if _name(file) == MARKER)
            remote.download(marker, folder / MARKER, setting, lambda size: None)
            if state := readable(folder):
                found.append((state, files))
    return sorted(found, key=lambda pair: (bool(differences(pair[0].signature, signature)), -pair[0].written))


def _copied(files: list[Entry], setting: str) -> Path:
    """The folder, on this disk, of a state's files."""
    key = blake2b(repr(files).encode(), digest_size=8).hexdigest()
    place = cache_folder() / "states" / key / "states" / files[0].url.split("/")[-2]
    if not place.is_dir():
        with atomic_folder(place, "data.cache_folder") as beside:
            beside.mkdir(parents=True)
            for entry in files:
                remote.download(entry, beside / _name(entry), setting, lambda size: None)
    return place


def _name(entry: Entry) -> str:
    return entry.url.rpartition("/")[2]
