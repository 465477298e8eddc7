"""SQLite databases of what is known about images: in a cache folder, never inside a dataset."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loralab.errors import user_error

log = logging.getLogger(__name__)

_REMEDY = "free some space, or choose another folder; what is cached so far is kept"


def connect(path: Path, schema: str, setting: str = "data.cache_folder") -> sqlite3.Connection:
    """Opens a database that several processes may use at once; one that is damaged is renamed and created anew.

    setting: where its folder was given. Commits survive a killed process. They are not forced to the disk: after a
    power failure a database may be damaged, which costs the time to make its contents again.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _opened(path, schema)
    except sqlite3.OperationalError as error:
        raise _unusable(path, error, setting) from error
    except sqlite3.DatabaseError:
        return _anew(path, schema, setting)
    except OSError as error:
        raise _unusable(path, error, setting) from error


@contextmanager
def writing(connection: sqlite3.Connection, setting: str = "data.cache_folder") -> Iterator[None]:
    """One transaction, waiting for other processes' first. Raises a UserError where it cannot be written."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except sqlite3.DatabaseError as error:  # a full disk, most of all
        raise user_error(setting, f"cannot be written ({error})", _REMEDY) from error
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _opened(path: Path, schema: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise sqlite3.DatabaseError(f"{path} is damaged")
        connection.executescript(schema)
    except BaseException:
        connection.close()
        raise
    return connection


def _anew(path: Path, schema: str, setting: str) -> sqlite3.Connection:
    aside = path.with_name(path.name + ".damaged")
    try:
        with contextlib.suppress(FileNotFoundError):  # another process may have been faster
            os.replace(path, aside)
            log.warning("%s is damaged: renamed to %s and created anew", path, aside.name)
        return _opened(path, schema)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error, setting) from error


def _unusable(path: Path, error: Exception, setting: str) -> Exception:
    return user_error(setting, f"{path} cannot be used ({error})", _REMEDY)
