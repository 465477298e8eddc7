"""Stores of named tensors by key: in memory, or on disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load, save
from torch import Tensor

from loralab.data.storage.shards import Damaged, Shards
from loralab.errors import user_error
from loralab.places import existing
from loralab.ranks import Ranks

Tensors = dict[str, Tensor]
AT_ONCE = 1000
"""Entries of each process that are exchanged together."""


class Store(Protocol):
    """Named tensors by key."""

    def missing(self, keys: Iterable[bytes]) -> list[bytes]: ...
    def claim(self, keys: Iterable[bytes]) -> list[bytes]:
        """Those of the missing keys that no other process is making."""
        ...

    def release(self) -> None:
        """Ends the claims of this process."""

    def put(self, records: Mapping[bytes, Tensors]) -> None: ...
    def get(self, key: bytes) -> Tensors: ...
    def verify(self) -> int:
        """Removes damaged entries; returns their number."""
        ...

    def check_room(self, size: int) -> None:
        """Raises a UserError if there is no space for so many bytes."""

    def close(self) -> None:
        """Called before processes are forked."""

    def exchange(self, ranks: Ranks) -> None:
        """Gives the other processes the entries put in this one, where they cannot read them from a disk."""

    def fetch(self, keys: Iterable[bytes]) -> None:
        """Takes those entries that are missing here from where machines share them."""

    def share(self, keys: Iterable[bytes]) -> None:
        """Gives other machines those of these entries that are here and not there."""

    def seal(self) -> None:
        """Called instead of close when all entries were put."""


class InMemory:
    """Once sealed, tensors of one shape are rows of one shared block, which worker processes do not copy."""

    def __init__(self) -> None:
        self._loose: dict[bytes, Tensors] = {}
        self._blocks: list[Tensors] = []
        self._rows: dict[bytes, tuple[int, int]] = {}

    def missing(self, keys: Iterable[bytes]) -> list[bytes]:
        return [key for key in keys if key not in self._rows and key not in self._loose]

    def claim(self, keys: Iterable[bytes]) -> list[bytes]:
        return self.missing(keys)

    def release(self) -> None:
        pass

    def put(self, records: Mapping[bytes, Tensors]) -> None:
        self._loose.update(records)

    def get(self, key: bytes) -> Tensors:
        if key in self._loose:
            return self._loose[key]
        block, row = self._rows[key]
        return row_of(self._blocks[block], row)

    def verify(self) -> int:
        return 0

    def check_room(self, size: int) -> None:
        pass

    def fetch(self, keys: Iterable[bytes]) -> None:
        pass

    def share(self, keys: Iterable[bytes]) -> None:
        pass

    def exchange(self, ranks: Ranks) -> None:
        own = [*self._loose.items()]
        for start in range(0, max(ranks.gather(len(own))), AT_ONCE):
            for records in ranks.gather(own[start : start + AT_ONCE]):
                self._loose.update(records)

    def seal(self) -> None:
        by_shape: dict[tuple, list[bytes]] = {}
        for key, tensors in self._loose.items():
            by_shape.setdefault(tuple((name, t.shape) for name, t in tensors.items()), []).append(key)
        for keys in by_shape.values():
            loose = [self._loose.pop(key) for key in keys]
            block = {name: torch.stack([tensors[name] for tensors in loose]).share_memory_() for name in loose[0]}
            self._rows.update({key: (len(self._blocks), row) for row, key in enumerate(keys)})
            self._blocks.append(block)

    def close(self) -> None:
        pass


class OnDisk:
    """Each record is a small safetensors file within a shard."""

    def __init__(self, folder: Path) -> None:
        self._shards = Shards(folder)
        self.missing, self.verify, self.close = self._shards.missing, self._shards.verify, self._shards.close
        self.claim, self.release, self.seal = self._shards.claim, self._shards.release, self.close

    def exchange(self, ranks: Ranks) -> None:
        pass

    def fetch(self, keys: Iterable[bytes]) -> None:
        pass

    def share(self, keys: Iterable[bytes]) -> None:
        pass

    def check_room(self, size: int) -> None:
        place = self._shards.folder
        if size > (free := shutil.disk_usage(existing(place)).free):
            found = f"latents need {size / 1e6:.1f} MB in {place}, {free / 1e6:.1f} MB are free"
            raise user_error("data.cache.folder", found, "free some space, use another folder, or data/cache=memory")

    def put(self, records: Mapping[bytes, Tensors]) -> None:
        self._shards.put({key: save(tensors) for key, tensors in records.items()})

    def get(self, key: bytes) -> Tensors:
        try:
            return load(self._shards.get(key))
        except (Damaged, KeyError) as error:
            found = f"{error} was damaged" if isinstance(error, Damaged) else f"{self._shards.folder} was emptied"
            remedy = "run again with resume=auto to continue from the last state; what is missing is encoded anew"
            raise user_error("data.cache", f"{found} while it was in use", remedy) from None


def row_of(tensors: Tensors, row: int) -> Tensors:
    return {name: tensor[row] for name, tensor in tensors.items()}
