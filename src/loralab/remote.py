"""Files on other machines, by URL: the one place where a setting becomes a filesystem of fsspec.

Every request is repeated after errors that may pass, with growing pauses. Credentials and endpoints come from the
environment, as those libraries read them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from loralab.errors import Problem, UserError, user_error
from loralab.urls import plain, scheme, unusable_url, without_secrets

T = TypeVar("T")

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between attempts, each up to a quarter longer by chance, so that many readers do not return together."""
_FINAL = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError, UserError)
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "TokenRetrievalError")
"""Classes of errors that no repetition mends."""
_S3 = {"config_kwargs": {"connect_timeout": 20, "read_timeout": 60, "retries": {"total_max_attempts": 1}}}
_PIECE = 64 << 20
"""Bytes of a large file that are asked for at once."""
_VERSION = (
    *("ETag", "etag", "md5Hash", "generation", "blob_id", "oid", "LastModified", "last_modified"),
    *("mtime", "created"),
)
"""What in an entry of a listing tells one content of a file from another."""


class Unreachable(UserError):
    """Files on another machine could not be read or written, however often it was tried."""


class Entry(NamedTuple):
    """A file as a listing tells of it."""

    url: str
    size: int
    stamp: int
    """Changes with its content."""


def filesystem(url: str, setting: str) -> Any:
    """The fsspec filesystem of a URL. Raises a UserError where it cannot be used."""
    if found := unusable_url(url):
        raise user_error(setting, *found)
    import fsspec

    kind = scheme(url)
    with _told(setting, url):
        # fsspec keeps one for each process and thread
        system = fsspec.filesystem(kind, use_listings_cache=False, **(_S3 if kind in ("s3", "s3a") else {}))
    if hasattr(system, "retries"):
        system.retries = 1  # it is `repeated` that tries again
    return system


def files(url: str, setting: str) -> list[Entry]:
    """All files at or below a URL, sorted by name; none if nothing is there."""
    system, url = filesystem(url, setting), plain(url)
    root = system._strip_protocol(url)
    try:
        found = repeated(lambda: system.find(root, detail=True), url, setting)
    except FileNotFoundError:
        return []
    names = {name: info for name, info in found.items() if info.get("type") == "file" and not name.endswith("/")}
    return [
        Entry(url + name[len(root) :], int(info["size"] or 0), _stamp(info)) for name, info in sorted(names.items())
    ]


def read(url: str, setting: str, start: int | None = None, stop: int | None = None) -> bytes:
    """The bytes of a file, or some of them. FileNotFoundError where there is none."""
    system = filesystem(url, setting)
    length = None if start is None or stop is None else stop - start

    def attempt() -> bytes:
        found = system.cat_file(system._strip_protocol(url), start=start, end=stop)
        if length is not None and len(found) != length:
            raise OSError(f"{len(found)} of {length} bytes were sent")
        return found

    return repeated(attempt, url, setting)


def download(entry: Entry, place: Path, setting: str, advance: Callable[[float], None]) -> None:
    """Writes a file to a path, in pieces that are asked for again each by itself; advance: called for bytes."""
    with place.open("wb") as file:
        for start in range(0, entry.size, _PIECE):
            advance(file.write(read(entry.url, setting, start, min(start + _PIECE, entry.size))))


def upload(place: Path, url: str, setting: str) -> None:
    """Writes a file of this disk to a URL; what is there is replaced."""
    system = filesystem(url, setting)
    repeated(lambda: system.put_file(str(place), system._strip_protocol(url)), url, setting)


def remove(url: str, setting: str) -> None:
    """Removes a file, where there is one."""
    system = filesystem(url, setting)
    with suppress(FileNotFoundError):
        repeated(lambda: system.rm_file(system._strip_protocol(url)), url, setting)


def repeated(call: Callable[[], T], url: str, setting: str) -> T:
    """What a call returns, tried again after errors that may pass.

    Raises Unreachable if the last attempt fails too, UserError where credentials are missing or do not suffice;
    FileNotFoundError as it is.
    """
    for wait in (*WAITS, None):
        try:
            with _told(setting, url):
                return call()
        except _FINAL:
            raise
        except Exception as error:  # each library has errors of its own
            if wait is None:
                found = f"{without_secrets(url)} could not be reached after {len(WAITS) + 1} attempts: {_said(error)}"
                remedy = "check the network and the server; run again with resume=auto to continue"
                raise Unreachable(Problem(setting, found, remedy)) from None
        time.sleep(wait * random.uniform(1, 1.25))
    raise AssertionError("the last attempt returns or raises")


class _told:
    """Turns refusals for want of credentials into a UserError."""

    def __init__(self, setting: str, url: str) -> None:
        self.setting, self.url = setting, url

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, PermissionError) or type(error).__name__ in _CREDENTIALS:
            remedy = "check the credentials in the environment, such as AWS_ACCESS_KEY_ID, and what they permit"
            raise user_error(self.setting, f"{without_secrets(self.url)} is refused: {_said(error)}", remedy) from None


def _said(error: BaseException | None) -> str:
    """An error in a line, without what is secret."""
    return without_secrets((str(error).strip() or type(error).__name__).splitlines()[0])[:300]


def _stamp(info: dict[str, Any]) -> int:
    known = repr([str(info[name]) for name in _VERSION if info.get(name)])
    return int.from_bytes(blake2b(known.encode(), digest_size=8).digest(), "little") >> 1
