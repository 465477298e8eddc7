"""Files and folders written completely or not at all, and the errors if they cannot be."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loralab.errors import Problem, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


class WriteError(UserError):
    """A file or folder could not be written. Nothing of it is left, and what existed before is unchanged."""

    def __init__(self, *problems: Problem, is_full: bool = False) -> None:
        super().__init__(*problems)
        self.is_full = is_full
        """Whether the disk is full."""


@contextmanager
def atomic_path(path: str | os.PathLike, setting: str, flush: bool = True) -> Iterator[Path]:
    """Yields a temporary path beside `path`; on success it is flushed to disk and renamed over it, on error removed.

    flush=False is for what is soon written again: it does not wait for the disk.

    Raises a WriteError that names `setting`, which gave the path, for any error of the file system.
    """
    path = Path(path)
    with _beside(path, setting) as beside:
        yield beside
        if flush:
            with open(beside, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(beside, path)


@contextmanager
def atomic_folder(path: str | os.PathLike, setting: str) -> Iterator[Path]:
    """Like `atomic_path` for a folder, which the caller creates at the path yielded."""
    path = Path(path)
    with _beside(path, setting) as beside:
        yield beside
        replaced = beside.with_suffix(".old")
        if path.exists():
            os.replace(path, replaced)
        os.replace(beside, path)
        shutil.rmtree(replaced, ignore_errors=True)


@contextmanager
def writing(path: str | os.PathLike, setting: str) -> Iterator[None]:
    """Turns errors of the file system while `path` is written into a WriteError."""
    try:
        yield
    except OSError as error:
        code, reason = error.errno, error.strerror or str(error)
        if isinstance(error, shutil.Error):  # of a copied folder: one entry for each file
            reason = str(error.args[0][0][-1])
        remedy = "choose another folder"
        if full := code in _FULL or os.strerror(errno.ENOSPC) in reason:
            reason, remedy = "the disk is full", "free some space, or choose another folder"
        if code in _FORBIDDEN:
            remedy = "choose a folder that you may write to"
        elif code == errno.ENAMETOOLONG:
            remedy = "choose a shorter name"
        raise WriteError(Problem(setting, f"{path} could not be written: {reason}", remedy), is_full=full) from error


@contextmanager
def _beside(path: Path, setting: str) -> Iterator[Path]:
    with writing(path, setting):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(part_name(path.name))
        try:
            yield beside
        finally:
            with suppress(OSError):  # the folder may be gone, too
                shutil.rmtree(beside) if beside.is_dir() else beside.unlink(missing_ok=True)


def part_name(name: str) -> str:
    """The name of a file while it is being written."""
    return f".{name}.{os.getpid()}.part"


def unused(path: Path) -> Path:
    """The path, or the first of name-2, name-3 … that does not exist."""
    free, count = path, 1
    while os.path.lexists(free):
        count += 1
        free = path.with_name(f"{path.stem}-{count}{path.suffix}")
    return free


def make_new(folder: Path, setting: str) -> Path:
    """Creates a new folder, this one or folder-2, folder-3 …; only one process gets each."""
    with writing(folder, setting):
        folder.parent.mkdir(parents=True, exist_ok=True)
        new, count = folder, 1
        while True:
            try:
                new.mkdir()
            except FileExistsError:
                count += 1
                new = folder.with_name(f"{folder.name}-{count}")
            else:
                return new


def try_to_write(folder: Path, setting: str) -> None:
    """Creates a folder and writes a test file into it. Raises a WriteError if it cannot."""
    with writing(folder, setting):
        was_there = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / part_name("trial")
        try:
            trial.write_bytes(bytes(1 << 16))
        except OSError:
            trial.unlink(missing_ok=True)
            if not was_there:
                folder.rmdir()
            raise
        trial.unlink()


LOCK = ".lock"
"""The file in a folder that is locked."""
_held: dict[Path, int] = {}


def hold(folder: Path) -> bool:
    """Locks a folder until `release`, or until the process ends, however it ends; False if another has locked it.

    On a system without such locks nothing is locked.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    folder = folder.resolve()
    if folder in _held:
        return True
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    for _ in range(5):
        try:
            # unlike flock's, it is not inherited by loader processes
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                time.sleep(0.02)  # `is_held` of another process locks it for a moment, too
                continue
        _held[folder] = handle
        return True
    os.close(handle)
    return False


@contextmanager
def holding(folder: Path) -> Iterator[bool]:
    """Within it a folder is locked; yields what `hold` returns."""
    before = {*_held}
    try:
        yield hold(folder)
    finally:
        if folder.resolve() not in before:
            release(folder)


@contextmanager
def in_turn(file: Path) -> Iterator[None]:
    """Within it are no other processes of this file: they wait. On a system without such locks they do not."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(file, "ab") as handle:  # whose end unlocks it
        fcntl.lockf(handle, fcntl.LOCK_EX)
        yield


def release(folder: Path) -> None:
    """Ends what `hold` began, where this process has begun it."""
    if (handle := _held.pop(folder.resolve(), None)) is not None:
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether a process has locked a folder, this one or another; True on a system without such locks."""
    return os.name == "nt" or folder.resolve() in _held or is_held_by_another(folder)


def is_held_by_another(folder: Path) -> bool:
    """Whether another process has locked a folder."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    if folder.resolve() in _held:  # to open and close its file would unlock it
        return False
    try:
        with open(folder / LOCK, "rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False
