"""Adapter files: written whole and verified, read without running what is in them."""

from __future__ import annotations

import hashlib
import io
import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from loralab.adapters.keys import Table
from loralab.adapters.kinds import Group, problems_of, some, sort_out
from loralab.adapters.layouts import Alphas, folded_into, to_kohya
from loralab.adapters.peft import CONFIG, PREFIX, Configs, configs_of
from loralab.errors import Problem, UserError, user_error
from loralab.files import what_is_at
from loralab.models.checkpoint import contents
from loralab.models.weights import read
from loralab.writing import atomic_path

Precision = Literal["fp32", "fp16", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
FORMATS = ("safetensors", "ckpt", "pt", "bin")
_LARGEST_HEADER = 100_000_000
"""Bytes; the safetensors library refuses to read a longer one."""
_HASHES = 200
"""Bytes of the header that `hashes` needs."""

_SAFETENSORS_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class AdapterFile:
    """What an adapter file holds, in the kohya layout."""

    state: dict[str, Tensor]
    metadata: dict[str, str]
    groups: dict[str, Group]
    """The same adapters by module name."""
    notes: list[str]
    """What else is in the file and was ignored because it changes no module."""
    problems: list[Problem]
    """Why it cannot be used as it is."""


def save(
    path: Path,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    precision: Precision | None = "fp16",
    setting: str = "--output",
) -> list[str]:
    """Writes tensors in the format of the path's extension, reads them back, and only then replaces an old file.

    A precision of None leaves each tensor its own. The same tensors and metadata give the same bytes. Metadata
    (safetensors only) is completed with the hashes that UIs know a file by; None leaves it out. Returns the names of
    the metadata that was omitted for lack of space. Raises an OutOfRange where values exceed the precision, and a
    WriteError that names `setting` where the file cannot be written.
    """
    tensors = dict(state)
    if precision is not None:
        tensors = {key: _cast(key, tensor, DTYPES[precision]) for key, tensor in state.items()}
    broken = [key for key, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        kind = "too large for " + precision if precision and _all_finite(state, broken) else "infinite or not a number"
        remedy = "use bf16 or fp32" if precision else "use an earlier file; no precision can store these values"
        raise OutOfRange(Problem(setting, f"values are {kind}: {some(broken)}", remedy))
    if metadata is None:
        write(path, tensors, None, setting)
        return []
    fitting = without_largest(metadata, _LARGEST_HEADER - len(_header_bytes(tensors, {})) - _HASHES)
    write(path, tensors, {**fitting, **hashes(tensors, fitting)}, setting)
    return [key for key in metadata if key not in fitting]


class OutOfRange(UserError):
    """Values that a file cannot hold in the precision asked for."""


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None, setting: str) -> None:
    """Writes tensors as they are; reads them back, and only then replaces an old file. Raises a WriteError."""
    path = Path(path)
    with atomic_path(path, setting) as beside:
        if path.suffix == ".safetensors":
            _write_safetensors(beside, tensors, metadata)
        else:
            beside.write_bytes(_pickled(tensors))
        _verify(beside, tensors)


def without_largest(metadata: Mapping[str, str], room: int) -> dict[str, str]:
    """The metadata without its largest entries, so that what is left takes `room` bytes at most."""
    sizes = {key: len(json.dumps({key: value})) for key, value in metadata.items()}
    by_size = sorted(sizes, key=lambda key: sizes[key])
    while sum(sizes[key] for key in by_size) > room:
        by_size.pop()
    return {key: value for key, value in metadata.items() if key in by_size}


def _all_finite(state: Mapping[str, Tensor], keys: list[str]) -> bool:
    return all(bool(state[key].isfinite().all()) for key in keys)


def load(path: Path | str, table: Table | None = None, setting: str = "adapter.weights") -> AdapterFile:
    """An adapter file of any layout and format, told by its content, in the kohya layout with the table's names.

    Raises a UserError for what is not an adapter, is damaged, contains code or NaNs, has keys of no known module, or
    was saved by PEFT with options that change what its tensors mean.
    """
    found = look(path, table, setting)
    if found.problems:
        raise UserError(*found.problems)
    return found


def look(
    path: Path | str, table: Table | None = None, setting: str = "adapter.weights", values: bool = True
) -> AdapterFile:
    """The same, but what can't be used is reported rather than raised; a UserError only where nothing can be read.

    `values`: whether the numbers are checked, which reads all of them.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise user_error(setting, *_no_file(path))
    tensors, metadata = read(path, setting), read_metadata(path)
    if not tensors:
        raise user_error(setting, f"{path} contains no tensors", "give the path of an adapter file")
    problems: list[Problem] = []
    configs, folded = _told(path, tensors, metadata, setting, problems)
    sorted_ = to_kohya(widened(tensors), configs, table, folded)
    groups, faults = sort_out(sorted_.state, values)
    module = metadata.get("ss_network_module", "")
    problems += problems_of(sorted_.faults | faults, len(tensors), setting, module)
    if not groups and not problems:
        problems = [Problem(setting, f"{path} contains no adapter", "use a file of one of the kinds in conf/adapter")]
    notes = [f"{path.name}: {what} ignored: {some(keys)}" for what, keys in sorted_.beside.items()]
    return AdapterFile(sorted_.state, metadata, groups, notes, problems)


def _told(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], setting: str, problems: list[Problem]
) -> tuple[Configs, Alphas]:
    """What the file says about its strength; adds to the problems what is unusable or missing."""
    try:
        configs, folded = configs_of(path, tensors, metadata), folded_into(metadata)
    except ValueError as error:
        problems.append(Problem(setting, f"{path}: {error}", "download or copy the file again"))
        return {}, {}
    if not configs and any(key.startswith(PREFIX) for key in tensors) and not any("alpha" in key for key in tensors):
        found = f"{path} was saved by PEFT, which stores alpha in {CONFIG}: not found beside it"
        problems.append(Problem(setting, found, f"put {CONFIG} into {path.parent}"))
    wrong = [(config.where, *problem) for config in configs.values() for problem in config.problems()]
    problems += [Problem(setting, f"{path}: {where}: {found}", remedy) for where, found, remedy in dict.fromkeys(wrong)]
    return ({} if wrong else configs), folded


def _no_file(path: Path) -> tuple[str, str]:
    """The problem with a path that is not a file, and the remedy."""
    if not path.is_dir():
        return f"{path} {what_is_at(path)}", "give the path of an adapter file"
    inside = sorted(p.name for p in path.iterdir() if p.suffix.removeprefix(".") in FORMATS)
    return f"{path} is a folder", f"did you mean {path / inside[0]}?" if inside else "give the path of an adapter file"


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Floating-point numbers of eight bits as halves, which have them all and can be computed with."""
    narrow = {n: t.half() for n, t in tensors.items() if t.dtype.itemsize == 1 and t.is_floating_point()}
    return {**tensors, **narrow}


def read_metadata(path: Path) -> dict[str, str]:
    """The text that a safetensors file holds beside its tensors; of other formats, nothing."""
    return contents(path).metadata


def _cast(key: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In the file's precision; an alpha that it would round stays fp32."""
    tensor = tensor.detach().cpu().contiguous()
    if not tensor.is_floating_point():
        return tensor
    cast = tensor.to(dtype)
    return tensor.float() if key.endswith(".alpha") and cast.float() != tensor.float() else cast


# safetensors, written here because the library gives metadata in no fixed order


def _write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> None:
    with open(path, "wb") as file:
        file.write(_header_bytes(tensors, metadata))
        for _, data in _data(tensors):
            file.write(data)


def _data(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, memoryview]]:
    """Names and bytes, wide types first, as the library orders them, then by name."""
    for name in sorted(tensors, key=lambda name: (-tensors[name].element_size(), name)):
        yield name, tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _header_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(sorted(metadata.items()))}
    at = 0
    for name, data in _data(tensors):
        tensor, end = tensors[name], at + data.nbytes
        dtype = _SAFETENSORS_DTYPES[tensor.dtype]
        entries[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`sshs_model_hash`, SHA-256 of the tensors' bytes, and the older `sshs_legacy_hash`.

    The older one is of 64 KiB from 1 MiB on in a file that has the `ss_` metadata alone.
    """
    whole = hashlib.sha256()
    start, stop = 0x100000, 0x110000
    head = _header_bytes(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    window, at = bytearray(head[start:stop]), len(head)
    for _, data in _data(tensors):
        whole.update(data)
        window += data[max(start - at, 0) : max(stop - at, 0)]
        at += data.nbytes
    return {"sshs_model_hash": whole.hexdigest(), "sshs_legacy_hash": hashlib.sha256(window).hexdigest()[:8]}


def _pickled(tensors: Mapping[str, Tensor]) -> bytes:
    """torch's own format; through memory, as it would write the path's name into the file."""
    buffer = io.BytesIO()
    torch.save({name: tensors[name] for name in sorted(tensors)}, buffer)
    return buffer.getvalue()


def _verify(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Reads a file back; an OSError where it does not hold these tensors."""
    back = read(path, "output.folder")
    same = back.keys() == tensors.keys() and all(
        back[name].dtype == tensor.dtype and torch.equal(back[name], tensor.cpu()) for name, tensor in tensors.items()
    )
    if not same:
        raise OSError("what was read back differs from what was written")
