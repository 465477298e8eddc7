"""Packing a folder into tar shards and back."""

from __future__ import annotations

import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from loralab.errors import UserError
from tests.support.images import picture
from tests.support.verbs import loralab


@pytest.fixture
def pack(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs the command; returns what it said."""
    monkeypatch.setenv("LORALAB_CACHE", str(tmp_path / "cache"))

    def call(*words: object, code: int = 0) -> str:
        loralab("shards", *words, code=code)
        return "".join(capsys.readouterr())

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images with captions in a sub-folder and outside, masks, and names that no tar of 1988 could hold."""
    root = tmp_path / "set"
    for number in range(6):
        picture(root / "3_star" / f"{number}.png", caption=f"star {number}")
        picture(root / "masks" / "3_star" / f"{number}.png", colour="white")
    picture(root / "a-b.png")
    picture(root / "a.png", caption="sks")
    (root / "a.json").write_text('{"text": "sks"}')
    picture(root / ("long" * 40) / f"{'name' * 30}.png", caption="größe, ☆")
    (root / os.fsdecode(b"\xff.png")).write_bytes((root / "a.png").read_bytes())
    (root / ".hidden").write_bytes(bytes(range(256)))
    (root / "empty.txt").write_bytes(b"")
    return root


def contents(folder: Path) -> dict[bytes, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {os.fsencode(path.relative_to(folder)): path.read_bytes() for path in files}


def test_unpacked_is_what_was_packed(folder: Path, tmp_path: Path, pack) -> None:
    before = contents(folder)
    pack(folder, tmp_path / "shards")
    pack("--unpack", tmp_path / "shards", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder) == before


def test_another_program_reads_the_shards(folder: Path, tmp_path: Path, pack) -> None:
    pack(folder, tmp_path / "shards")
    (tmp_path / "tar").mkdir()
    subprocess.run(["tar", "-xf", tmp_path / "shards" / "000.tar", "-C", tmp_path / "tar"], check=True)
    assert contents(tmp_path / "tar") == contents(folder)


def test_the_bytes_depend_on_the_files_alone(folder: Path, tmp_path: Path, pack) -> None:
    pack(folder, tmp_path / "first")
    for path in folder.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    pack(folder, tmp_path / "second")
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def many(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of 3 MB in 60 samples of two files, and where its shards of 1 MB go."""
    root = tmp_path / "many"
    root.mkdir()
    for number in range(60):
        (root / f"{number:02}.jpg").write_bytes(bytes([number]) * 50_000)
        (root / f"{number:02}.txt").write_text(f"caption {number}")
    return root, tmp_path / "shards"


def test_files_of_a_sample_are_in_one_shard(tmp_path: Path, pack) -> None:
    root, out = many(tmp_path)
    pack(root, out, "--size", "1")
    assert [path.name for path in sorted(out.iterdir())] == ["000.tar", "001.tar", "002.tar", "003.tar"]
    for shard in out.iterdir():
        assert shard.stat().st_size <= 1_000_000 + tarfile.RECORDSIZE
        with tarfile.open(shard) as tar:
            names = tar.getnames()
        assert names[::2] == [f"{name[:2]}.jpg" for name in names[1::2]]


def test_goes_on_after_a_kill(tmp_path: Path, pack) -> None:
    root, out = many(tmp_path)
    pack(root, out, "--size", "1")
    whole = contents(out)
    (out / "002.tar").unlink()
    kept = (out / "001.tar").stat().st_mtime_ns
    assert "4 shards, 1 written, 3 already there" in pack(root, out, "--size", "1")
    assert contents(out) == whole
    assert (out / "001.tar").stat().st_mtime_ns == kept


@pytest.mark.parametrize("change", ["edit", "rename", "other size", "foreign"])
def test_nothing_is_overwritten(tmp_path: Path, change: str, pack) -> None:
    root, out = many(tmp_path)
    pack(root, out, "--size", "1")
    before = contents(out)
    if change == "edit":
        (root / "07.jpg").write_bytes(bytes(50_000))
        os.utime(root / "07.jpg", (2**33, 2**33))
    elif change == "rename":
        (root / "07.jpg").rename(root / "07.png")
    elif change == "foreign":
        (out / "notes.txt").write_text("mine")
        before = contents(out)
    said = pack(root, out, "--size", "2" if change == "other size" else "1", code=1)
    assert "remove it, or choose another folder" in said or "choose another folder, or the --size" in said
    assert contents(out) == before


def test_unpacking_does_not_overwrite(tmp_path: Path, pack) -> None:
    root, out = many(tmp_path)
    pack(root, out)
    back = tmp_path / "back"
    back.mkdir()
    (back / "30.txt").write_text("edited")
    assert "already exists with other content" in pack("--unpack", out, back, code=1)
    assert (back / "30.txt").read_text() == "edited"
    (back / "30.txt").unlink()
    pack("--unpack", out, back)
    assert contents(back) == contents(root)


def test_a_member_outside_of_the_folder_is_not_written(tmp_path: Path, pack) -> None:
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "000.tar", "w") as tar:
        for name in ("../evil.txt", "/good.txt", "a/../../evil.txt"):
            tar.addfile(tarfile.TarInfo(name))
    pack("--unpack", tmp_path / "shards", tmp_path / "inner" / "back")
    assert [path.name for path in (tmp_path / "inner").rglob("*.txt")] == ["good.txt"]
    assert not list(tmp_path.rglob("evil.txt"))


@pytest.mark.parametrize(
    ("source", "target", "said"),
    [
        ("none", "out", "not found"),
        ("set", "set/out", "is inside the image folder"),
        ("set", "s3://key:word@bucket/set", "given with credentials"),
        ("set", "nothing://bucket/set", "unknown scheme"),
    ],
)
def test_refused(folder: Path, tmp_path: Path, source: str, target: str, said: str, pack) -> None:
    target = target if "://" in target else str(tmp_path / target)
    shown = pack(tmp_path / source, target, code=1)
    assert said in shown
    assert "word" not in shown


def test_from_and_to_a_url(folder: Path, tmp_path: Path, pack) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/packing/set", recursive=True)
    pack("memory://packing/set", "memory://packing/shards")
    pack(folder, tmp_path / "shards")
    assert memory.cat("/packing/shards/000.tar") == (tmp_path / "shards" / "000.tar").read_bytes()
    pack("--unpack", "memory://packing/shards", tmp_path / "back")
    assert contents(tmp_path / "back") == contents(folder)
    assert "0 written, 1 already there" in pack("memory://packing/set", "memory://packing/shards")


def test_a_shard_cut_short_is_named(folder: Path, tmp_path: Path, pack) -> None:
    from loralab.data.sources.mounts import mount

    pack(folder, tmp_path / "shards")
    shard = tmp_path / "shards" / "000.tar"
    for length in (shard.stat().st_size // 2, 512 * 40):
        shard.write_bytes(shard.read_bytes()[:length])
        with pytest.raises(UserError, match=r"000\.tar is not a complete"):
            mount(str(tmp_path / "shards"), "data.folder", tmp_path / "cache", 0)
