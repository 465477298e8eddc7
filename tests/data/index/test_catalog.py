"""What is kept of files from one look to the next: the same as looking anew, and nothing is read twice."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

import pytest

from loralab.data import images
from loralab.data.folders import Folder
from loralab.data.index import blocks, catalog
from loralab.data.index.index import Index, scan
from loralab.errors import UserError
from tests.support.images import picture


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in (blocks, catalog):
        monkeypatch.setattr(module, "ROWS", 3)  # so that a few files fill several blocks
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def look(folder: Path, cache: str = "cache") -> Index:
    place = str(folder.parent / cache)
    return scan([Folder(str(folder))], place).hashed(place)


def changed(folder: Path, rng: random.Random, turn: int) -> set[str]:
    """Makes, edits and removes some files; the names of images that are new or other ones."""
    touched = set()
    names = sorted(path.name for path in folder.glob("*.png"))
    for _ in range(rng.randint(0, 3)):
        name = f"{rng.randrange(1000):03}.png"
        picture(folder / name, (rng.randint(1, 40), 9), caption=rng.choice([None, "", f"words of turn {turn}"]))
        touched.add(name)
    for name in rng.sample(names, min(len(names), rng.randint(0, 2))):
        picture(folder / name, (rng.randint(1, 40), 10 + turn))
        touched.add(name)
    for name in rng.sample(names, min(len(names), rng.randint(0, 2))):
        (folder / name).unlink(missing_ok=True)
        touched.discard(name)
    if names and rng.random() < 0.5:
        (folder / names[0]).with_suffix(".txt").write_text(f"another caption {turn}")
    return touched & {path.name for path in folder.glob("*.png")}


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_to_a_folder_a_look_is_the_same_as_the_first_one(
    folder: Path, headers_read: list[str], seed: int
) -> None:
    rng = random.Random(seed)
    for number in range(rng.choice([2, 3, 10])):
        picture(folder / f"{number * 90:03}.png", caption=f"caption {number}")
    if seed % 2:
        (folder / "500.png").with_suffix(".webp").write_bytes(b"damaged")
    look(folder)
    for turn in range(10):
        expected = changed(folder, rng, turn)
        headers_read.clear()
        index = look(folder)
        assert set(headers_read) - {"500.webp"} == expected, f"turn {turn}"
        anew = look(folder, f"cache {turn}")
        assert list(index) == list(anew)
        assert [index.kind(i) for i in range(len(index))] == [anew.kind(i) for i in range(len(index))]
        assert index.skipped == anew.skipped


def test_a_scan_that_was_ended_goes_on_where_it_was(
    folder: Path, headers_read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        picture(folder / f"{number:02}.png")
    counted = images.header

    def header(path: bytes) -> images.Header:
        if path.endswith(b"10.png"):
            raise KeyboardInterrupt
        return counted(path)

    monkeypatch.setattr(catalog.images, "header", header)
    with pytest.raises(KeyboardInterrupt):
        look(folder)
    monkeypatch.setattr(catalog.images, "header", counted)
    headers_read.clear()
    index = look(folder)
    assert [Path(item.path).name for item in index] == [f"{number:02}.png" for number in range(20)]
    assert sorted(headers_read) == [f"{number:02}.png" for number in range(9, 20)], "9: its block was not full"
    headers_read.clear()
    assert list(look(folder)) == list(index)
    assert headers_read == []


def test_threads_where_the_disk_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(catalog._BLOCK * 3):
        picture(folder / f"{number:03}.bmp", (1 + number % 7, 3))
    threads: set[int] = set()
    header = images.header

    def slow(path: bytes) -> images.Header:
        threads.add(threading.get_ident())
        time.sleep(0.01)
        return header(path)

    monkeypatch.setattr(catalog.images, "header", slow)
    index = look(folder)
    assert [item.width for item in index] == [1 + number % 7 for number in range(len(index))]
    assert len(threads) > 1


def test_a_folder_that_has_not_changed_is_compared_as_a_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(10):
        picture(folder / f"{number}.png", caption=f"{number}")
    picture(folder / "sub" / "x.png")
    for number in (5, 0):
        look(folder)
        picture(folder / f"{number}a.png", caption="between")
    look(folder)
    look(folder)  # puts in order what was hashed last
    monkeypatch.setattr(blocks.Stored, "find", lambda *_: pytest.fail("row by row"))
    assert len(look(folder)) == 13


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_a_full_disk_is_one_message_and_the_next_look_goes_on(folder: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    import resource

    for number in range(40):
        picture(folder / f"{number:02}.png", caption="a" * 2000)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        with pytest.raises(UserError, match="cannot be written") as error:
            look(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.problems[0].setting == "data.cache_folder"
    index = look(folder)
    assert len(index) == 40
    assert all(item.caption == "a" * 2000 for item in index)


@pytest.mark.parametrize("column", ["names", "sizes", "stamps", "facts"])
def test_a_damaged_block_is_read_anew(folder: Path, headers_read: list[str], column: str) -> None:
    for number in range(5):
        picture(folder / f"{number}.png", caption=f"{number}")
    before = list(look(folder))
    with sqlite3.connect(next((folder.parent / "cache").glob("*.sqlite"))) as database:
        found = f"SELECT id, {column} FROM blocks WHERE kind = ? ORDER BY id"
        (row, value), *_ = database.execute(found, (catalog._HEADERS.name,))
        database.execute(f"UPDATE blocks SET {column} = ? WHERE id = ?", (value[:-1] + bytes([value[-1] ^ 1]), row))
    database.close()
    headers_read.clear()
    assert list(look(folder)) == before
    assert sorted(headers_read) == ["0.png", "1.png", "2.png"]


def test_names_that_no_text_is(folder: Path) -> None:
    for name in (b"\xff\xfe.png", b"new\nline.png", b"a b.png"):
        picture(Path(os.fsdecode(os.path.join(os.fsencode(folder), name))), caption="found")
    first = look(folder)
    assert list(look(folder)) == list(first)
    assert len(first) == 3
