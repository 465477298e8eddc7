"""The marker of a training state: what it says, and whether it and the checkpoint are valid.

It is judged like any foreign file: its checksum, then the type and range of every value.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from loralab.files import digest_file, what_is_at
from loralab.models.checkpoint import Unreadable, contents
from loralab.schema.renamed import NO_LONGER, current_keys
from loralab.writing import atomic_path

TENSORS, MARKER = "state.ckpt", "state.json"
FORMAT = 2
"""Of the marker and its signature; 1 had no checksum, and its signature did not have all that changes a result."""
PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "ema", "position", "global_step")
"""What the checkpoint of a state holds, among others."""


class DamagedState(Exception):
    """Why a state cannot be used, as text."""


@dataclass(frozen=True)
class State:
    """What the marker says of a state."""

    path: Path
    """Its folder."""
    step: int
    """Optimizer steps done."""
    epoch: int
    """Counted from 0."""
    batch: int
    """Batches of that epoch done."""
    horizon: int | None
    """Optimizer steps that the schedule was made for; None where they don't matter to it."""
    signature: dict[str, Any]
    """What can change the result (see signature)."""
    versions: dict[str, str]
    written: float
    """Seconds since 1970."""
    digest: str
    """Of the file with the tensors."""

    @property
    def file(self) -> Path:
        return self.path / TENSORS

    def check(self) -> State:
        """Itself, its tensors compared with the digest. Raises DamagedState."""
        if not self.file.is_file():
            raise DamagedState(f"has no {TENSORS}")
        try:
            found = self.file.stat()
            if _digest(self.file, found.st_size, found.st_mtime_ns) != self.digest:
                raise DamagedState(f"has a damaged {TENSORS}")
            if code := contents(self.file).code:
                raise DamagedState(f"has a {TENSORS} that contains code ({code[0]}), which was not run")
        except (Unreadable, OSError) as error:
            raise DamagedState(f"has an unreadable {TENSORS}: {error}") from error
        return self

    def open(self) -> State:
        """Itself, if its checkpoint is one of loralab's and of the marker's step. Raises DamagedState."""
        import torch

        try:
            saved = torch.load(self.file, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # whatever torch makes of a foreign file
            raise DamagedState(f"has an unreadable {TENSORS}: {str(error).partition('.')[0]}") from error
        if not isinstance(saved, dict) or (lacking := [part for part in PARTS if part not in saved]):
            what = f"{lacking[0]!r} is missing" if isinstance(saved, dict) else f"it is a {type(saved).__name__}"
            raise DamagedState(f"has a {TENSORS} that is not a training state ({what})")
        found = saved["global_step"], saved["position"]
        if repr(found) != repr((self.step, (self.epoch, self.batch))):
            raise DamagedState(f"is inconsistent: {MARKER} and {TENSORS} belong to different steps")
        return self


@cache
def _digest(file: Path, size: int, modified: int) -> str:
    """Of a file as long as it stays what it is: states may have gigabytes, and a run checks its own more than once."""
    return digest_file(file)


def read(path: Path) -> State:
    """The state in a folder, its tensors still unchecked. Raises DamagedState."""
    if not path.is_dir():
        raise DamagedState(what_is_at(path))
    if not (path / MARKER).is_file():
        raise DamagedState("is incomplete" if looks_like_state(path) else "is not a training state")
    try:
        return _judged(json.loads((path / MARKER).read_text(encoding="utf8")), path)
    except (ValueError, TypeError, RecursionError, OSError) as error:
        raise DamagedState(f"has a damaged {MARKER}") from error


def write(state: State) -> None:
    """Writes the marker of a state."""
    facts = {"format": FORMAT} | {name: value for name, value in asdict(state).items() if name in KINDS}
    with atomic_path(state.path / MARKER, "hydra.run.dir") as marker:
        marker.write_text(json.dumps(facts | {"checksum": _checksum(facts)}, indent=1), encoding="utf8")


def looks_like_state(path: Path) -> bool:
    """By its name."""
    return re.fullmatch(r"step\d+(-\d+)?", path.name) is not None


def _judged(facts: Any, path: Path) -> State:
    """The state that a marker describes. Raises DamagedState where it is of another format, altered, or makes no
    sense."""
    if isinstance(facts, dict) and "checksum" not in facts and facts.keys() >= {"step", "epoch", "batch", "signature"}:
        raise DamagedState(
            "was saved by an earlier version of loralab that did not record everything needed to continue "
            "exactly: finish it with that version, or start from its adapter file with adapter.weights=FILE"
        )
    if not isinstance(facts, dict) or facts.pop("checksum", None) != _checksum(facts):
        raise DamagedState(f"has a damaged {MARKER}")
    if (version := facts.pop("format", None)) != FORMAT:
        raise DamagedState(f"has state format {version!r}, which this version of loralab cannot read")
    if facts.keys() != KINDS.keys() or not all(fits(facts[name]) for name, fits in KINDS.items()):
        wrong = [name for name, fits in KINDS.items() if name not in facts or not fits(facts[name])]
        raise DamagedState(f"has an invalid {MARKER}: {', '.join(wrong) or 'unknown entries'}")
    facts["signature"] = {k: v for k, v in current_keys(facts["signature"]).items() if k not in NO_LONGER}
    return State(path, **facts)


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < 1 << 53


KINDS: dict[str, Callable[[Any], bool]] = {
    "step": lambda value: _is_count(value, 1),
    "epoch": _is_count,
    "batch": _is_count,
    "horizon": lambda value: value is None or _is_count(value, 1),
    "signature": lambda value: isinstance(value, dict),
    "versions": lambda value: isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
    "written": lambda value: isinstance(value, float) and math.isfinite(value),
    "digest": lambda value: isinstance(value, str),
}
"""What a marker has, and what each may be."""


def _checksum(facts: dict[str, Any]) -> str:
    """Of a marker's content, independent of its layout."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
