"""A store on this disk whose entries machines share by way of a bucket.

The bucket holds packs: safetensors files of up to 256 MB, called by the hash of their bytes, that are written once and
never changed. So no machine waits for another; two that make the same entry at the same time both upload it.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import safe_open
from safetensors.torch import save_file

from loralab import remote
from loralab.data.storage.records import AT_ONCE, OnDisk, Tensors
from loralab.errors import UserError
from loralab.files import digest_file
from loralab.progress import progress
from loralab.urls import plain

log = logging.getLogger(__name__)

SETTING = "data.cache.share"
PACK = 256 << 20
"""Bytes of tensors from which on a pack is followed by another."""
Keys = dict[bytes, list[str]]
"""The names of an entry's tensors in a pack, by its key."""


class Shared(OnDisk):
    """url: the bucket's folder of such entries."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self._url = plain(url)
        self._known: dict[remote.Entry, Keys] = {}

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Raises a UserError where the bucket cannot be read."""
        wanted = set(self.missing(keys))
        holding = {entry: held.keys() & wanted for entry, held in self._packs().items()} if wanted else {}
        size = sum(entry.size for entry, held in holding.items() if held)
        with progress("downloading latents and texts", size, "bytes") as advance:
            for entry, held in holding.items():
                if todo := self.missing(held):  # of those that several packs hold
                    with TemporaryDirectory() as place:
                        file = Path(place, "pack")
                        remote.download(entry, file, SETTING, advance)
                        self._take(entry, file, todo)

    def share(self, keys: Iterable[bytes]) -> None:
        """An error is told, and costs nothing else: a later run uploads what is not there."""
        try:
            there = {key for held in self._packs().values() for key in held}
            new = [key for key in keys if key not in there]
            absent = set(self.missing(new))
            for tensors in self._parts(key for key in new if key not in absent):
                with TemporaryDirectory() as place:
                    file = Path(place, "pack")
                    save_file(tensors, file)
                    remote.upload(file, f"{self._url}/{digest_file(file)}.safetensors", SETTING)
        except (UserError, OSError) as error:
            print(f"error     {error}; the run continues", file=sys.stderr, flush=True)

    def _packs(self) -> dict[remote.Entry, Keys]:
        """What each of them holds; the beginnings of new ones are read."""
        for entry in remote.files(self._url, SETTING):
            if entry not in self._known and entry.url.endswith(".safetensors"):
                self._known[entry] = _keys(entry)
        return self._known

    def _take(self, entry: remote.Entry, file: Path, keys: list[bytes]) -> None:
        if digest_file(file) != Path(entry.url).stem:
            log.warning("%s is damaged, and not used", entry.url)
            return
        names = self._known[entry]
        with safe_open(file, "pt") as pack:
            for start in range(0, len(keys), AT_ONCE):
                some = keys[start : start + AT_ONCE]
                self.put({key: {name.partition(".")[2]: pack.get_tensor(name) for name in names[key]} for key in some})

    def _parts(self, keys: Iterable[bytes]) -> Iterator[Tensors]:
        """The tensors of these entries, as packs have them."""
        part: Tensors = {}
        size = 0
        for key in keys:
            tensors = self.get(key)
            part |= {f"{key.hex()}.{name}": tensor for name, tensor in tensors.items()}
            size += sum(tensor.nbytes for tensor in tensors.values())
            if size >= PACK:
                yield part
                part, size = {}, 0
        if part:
            yield part


def _keys(entry: remote.Entry) -> Keys:
    """Of a pack; none of a file that is no pack."""
    found: Keys = {}
    try:
        length = int.from_bytes(remote.read(entry.url, SETTING, 0, 8), "little")
        for name in json.loads(remote.read(entry.url, SETTING, 8, 8 + min(length, entry.size - 8))):
            if name != "__metadata__":
                found.setdefault(bytes.fromhex(name.partition(".")[0]), []).append(name)
    except (ValueError, FileNotFoundError):
        log.warning("%s holds no entries of a cache", entry.url)
    return found
