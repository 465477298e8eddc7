"""`loralab shards FOLDER OUT`: packs a folder into tar shards, byte for byte, and back with --unpack.

The bytes of the shards depend on the files alone: members are sorted, and have no times, owners or permissions.
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from loralab import remote, signals
from loralab.at_least import at_least
from loralab.data.index.index import keep_outside
from loralab.data.sources.mounts import absolute, all_files, is_folder, mount, opened, size_and_stamp, source_of
from loralab.errors import user_error
from loralab.files import cache_folder, printable, what_is_at
from loralab.places import check_place
from loralab.progress import progress
from loralab.urls import is_url, unusable_url
from loralab.writing import atomic_path, writing

SOURCE, TARGET = "FOLDER", "OUT"


class Member(NamedTuple):
    """A file to pack."""

    name: bytes
    """Its path below the folder."""
    size: int

    @property
    def info(self) -> tarfile.TarInfo:
        info = tarfile.TarInfo(self.name.decode("utf8", "surrogateescape"))
        info.size, info.mode = self.size, 0o644
        return info

    @property
    def packed(self) -> int:
        """Bytes in a shard."""
        head = len(self.info.tobuf(tarfile.PAX_FORMAT, "utf8", "surrogateescape"))
        return head + -(-self.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    @property
    def sample(self) -> bytes:
        """What files of one sample have in common: the path up to the first dot of the name."""
        folder, slash, name = self.name.rpartition(b"/")
        return folder + slash + name.partition(b".")[0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar=SOURCE, help="folder to pack, a path or a URL; with --unpack that of shards")
    parser.add_argument("target", metavar=TARGET, help="folder for 000.tar, 001.tar …, a path or a URL")
    parser.add_argument("--unpack", action="store_true", help="write the files of shards into a folder")
    parser.add_argument("--size", type=at_least(1), default=512, metavar="MB", help="of a shard (default: 512)")


def main(args: argparse.Namespace) -> None:
    source, target = absolute(args.source), absolute(args.target)
    if is_url(target) and (found := unusable_url(target)):
        raise user_error(TARGET, *found)
    if not is_url(target):
        check_place(target, TARGET, is_folder=True)
    mount(source, SOURCE, cache_folder(), 0)
    if not is_folder(source):
        raise user_error(SOURCE, f"'{source}' not found, or is not a folder", "give a folder, or a URL of one")
    if not is_url(source) and not is_url(target):
        keep_outside([source], Path(target), TARGET)
    (unpack if args.unpack else pack)(source, target, args.size * 1_000_000)


def pack(source: str, target: str, size: int) -> None:
    """Writes what is missing of the shards of a folder, each of about `size` bytes."""
    members = [_member(source, name) for name in all_files(source)]
    if not members:
        raise user_error(SOURCE, f"'{source}' contains no files", "give a folder of images")
    shards = list(_cut(members, size))
    names = [f"{number:0{max(3, len(str(len(shards) - 1)))}d}.tar" for number in range(len(shards))]
    there = _there(target, names)
    with progress("packing", sum(member.size for member in members), "bytes") as advance:
        for name, shard in zip(names, shards, strict=True):
            if name in there:
                _refuse_other(f"{target}/{name}", there[name], source, shard)
                advance(sum(member.size for member in shard))
                continue
            with ExitStack() as stack:
                if is_url(target):
                    place = Path(stack.enter_context(tempfile.TemporaryDirectory())) / name
                else:
                    place = stack.enter_context(atomic_path(f"{target}/{name}", TARGET))
                _write(place, source, shard, advance)
                if is_url(target):
                    remote.upload(place, f"{target}/{name}", TARGET)
    made = len(shards) - len(there)
    print(f"{target}: {len(members)} files in {len(shards)} shards, {made} written, {len(there)} already there")


def _member(source: str, name: bytes) -> Member:
    path = _path(source, name)
    if not source_of(source) and not os.path.isfile(path):
        raise user_error(printable(path), what_is_at(path).replace("was", "is a link to what was"), "remove it")
    return Member(name, size_and_stamp(path)[0])


def unpack(source: str, target: str, size: int) -> None:
    """Writes what is missing of the files of shards into a folder."""
    if source_of(source) is None:
        raise user_error(SOURCE, f"'{source}' contains no tar shards", "give the folder of 000.tar, 001.tar …")
    if is_url(target):
        raise user_error(TARGET, f"'{target}' is a URL", "give a folder of this disk")
    made = count = 0
    with progress("unpacking", None, "files") as advance:
        for name in all_files(source):
            place = os.fsencode(target) + b"/" + name
            with opened(_path(source, name)) as file:
                content = file.read()
            if os.path.lexists(place):
                _refuse_changed(place, content)
            else:
                with atomic_path(os.fsdecode(place), TARGET, flush=False) as beside:
                    beside.write_bytes(content)
                made += 1
            count += 1
            advance(1)
            signals.check()
    print(f"{target}: {count} files, {made} written, {count - made} already there")


def _cut(members: list[Member], size: int) -> Iterator[list[Member]]:
    """The members of each shard: files of a sample stay together."""
    shard: list[Member] = []
    filled = 0
    for _, files in groupby(members, lambda member: member.sample):
        sample = list(files)
        more = sum(member.packed for member in sample)
        if shard and filled + more > size:
            yield shard
            shard, filled = [], 0
        shard += sample
        filled += more
    yield shard


def _write(place: Path, source: str, shard: Iterable[Member], advance: Callable[[float], None]) -> None:
    given = {"format": tarfile.PAX_FORMAT, "encoding": "utf8", "errors": "surrogateescape"}
    with writing(place, TARGET), closing(tarfile.open(place, "w", **given)) as tar:  # type: ignore[arg-type]
        for member in shard:
            path = _path(source, member.name)
            with opened(path) as file:
                if file.seek(0, io.SEEK_END) != member.size:
                    raise user_error(printable(path), "was changed while it was packed", "run the command again")
                file.seek(0)
                tar.addfile(member.info, file)
            advance(member.size)
            signals.check()


def _there(target: str, names: list[str]) -> dict[str, int]:
    """Name → bytes of the shards that exist. Raises a UserError for other files, which would become part of the set."""
    if is_url(target):
        found = {entry.url[len(target) + 1 :]: entry.size for entry in remote.files(target, TARGET)}
    elif os.path.isdir(target):
        with os.scandir(target) as entries:
            found = {entry.name: entry.stat().st_size for entry in entries if not entry.name.startswith(".")}
    else:
        found = {}
    if others := sorted(found.keys() - names):
        words = f"'{target}' contains files that are not of these shards: {', '.join(others[:3])}"
        raise user_error(TARGET, words, "choose another folder, or the --size that they were made with")
    return found


def _refuse_other(place: str, size: int, source: str, shard: list[Member]) -> None:
    """Raises a UserError where a shard that exists is not of these files."""
    packed = sum(member.packed for member in shard) + 2 * tarfile.BLOCKSIZE
    same = size == -(-packed // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    if same and not is_url(place):
        made = os.stat(place).st_mtime_ns
        with tarfile.open(place, "r:", encoding="utf8", errors="surrogateescape") as tar:
            same = [(member.name, member.size) for member in tar] == [(m.info.name, m.size) for m in shard]
        newer = not source_of(source) and any(os.stat(_path(source, m.name)).st_mtime_ns > made for m in shard)
        same = same and not newer
    if not same:
        raise user_error(TARGET, f"{place} already exists and is of other files", "remove it, or choose another folder")


def _refuse_changed(place: bytes, content: bytes) -> None:
    if os.path.isfile(place):
        with open(place, "rb") as file:
            if file.read() == content:
                return
    name = printable(os.fsdecode(place))
    raise user_error(TARGET, f"{name} already exists with other content", "remove it, or choose another folder")


def _path(folder: str, name: bytes) -> str:
    return f"{folder}/{os.fsdecode(name)}"
