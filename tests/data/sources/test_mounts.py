"""Shards and URLs, read as the folder that they were made from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import pytest

from loralab.data.folders import Folder
from loralab.data.index.index import Index, scan
from loralab.data.sources import mounts
from loralab.data.sources.listing import Listing, Where
from loralab.errors import UserError
from tests.support.images import picture
from tests.support.verbs import loralab


def look(root: str, cache: Path, **rules) -> Index:
    found = scan([Folder(root, mask_folder=f"{root}/masks", **rules)], str(cache), downloads=1e9)
    return found.hashed(str(cache))


def rows(index: Index, root: str) -> list[tuple]:
    return [
        (i.path.removeprefix(root), i.caption, i.repeats, (i.mask or "").removeprefix(root), i.digest, i.width)
        for i in index
    ]


@pytest.fixture
def shards(images: Path, tmp_path: Path) -> str:
    loralab("shards", images, tmp_path / "shards")
    return str(tmp_path / "shards")


@pytest.fixture
def memory(images: Path) -> str:
    store = fsspec.filesystem("memory")
    if not store.exists("/set"):
        store.put(str(images), "/set", recursive=True)
    return "memory://set"


def test_all_are_the_same_set(images: Path, shards: str, memory: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").put(shards, "/shards", recursive=True)
    folder = look(str(images), tmp_path / "cache")
    assert len(folder) == 14
    assert all(item.mask for item in folder)
    for root in (shards, memory, "memory://shards", f"file://{images}", f"file://{shards}"):
        found = look(root, tmp_path / "cache")
        assert rows(found, mounts.absolute(root)) == rows(folder, str(images)), root
        assert found.digest() == folder.digest()
        assert [n.replace(mounts.absolute(root), "") for n in found.notes] == [
            n.replace(str(images), "") for n in folder.notes
        ]


def test_a_metadata_file_in_shards(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "in" / "a.png")
    (tmp_path / "set" / "in" / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "from the table"}')
    loralab("shards", tmp_path / "set", tmp_path / "shards")
    assert [i.caption for i in scan([Folder(str(tmp_path / "shards"))], str(tmp_path / "cache"))] == ["from the table"]
    given = Folder(str(tmp_path / "set"), metadata=str(tmp_path / "shards" / "in" / "metadata.jsonl"))
    assert [i.caption for i in scan([given], str(tmp_path / "cache"))] == ["from the table"]


def test_hidden_files_and_damaged_images_are_told_as_of_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "set"
    picture(root / "a.png")
    picture(root / ".trash" / "b.png")
    picture(root / "2_x" / "@eaDir" / "c.png")
    (root / "2_x" / "d.png").write_bytes(b"no image")
    (root / "2_x" / "e.caption").write_text("other")
    (root / "._a.png").write_bytes(b"")
    loralab("shards", root, tmp_path / "shards")
    folder, packed = (scan([Folder(str(tmp_path / name))], str(tmp_path / "cache")) for name in ("set", "shards"))
    assert packed.notes == folder.notes
    assert [s.reason for s in packed.skipped] == [s.reason for s in folder.skipped] != []


def test_captions_in_the_json_files_of_samples(tmp_path: Path) -> None:
    """As img2dataset writes them; a caption file comes before. In a folder they are not read."""
    root = tmp_path / "set" / "2_star"
    said = {"a": {"caption": "a cat"}, "b": {"text": "a dog"}, "c": {"prompt": " two\nlines "}, "d": {"width": 64}}
    said |= {"e": {"caption": "unread"}, "f": {"caption": "", "text": None}, "g": {"caption": {"en": "an object"}}}
    for name, sample in said.items():
        picture(root / f"{name}.png", caption="from its text" if name == "e" else None)
        (root / f"{name}.json").write_text(json.dumps(sample))
    picture(root / "h.png")
    (root / "h.json").write_text('{"caption": ')
    (root / "i.json").write_text('{"caption": "no image"}')
    loralab("shards", tmp_path / "set", tmp_path / "shards")
    for _ in range(2):  # then from what is kept of them
        index = scan([Folder(str(tmp_path / "shards"))], str(tmp_path / "cache"))
        assert {Path(item.path).stem: item.caption for item in index} == {
            "a": "a cat",
            "b": "a dog",
            "c": "two\nlines",
            "d": "star",
            "e": "from its text",
            "f": "star",
        }
        skipped = {Path(path).stem: reason for path, reason in index.skipped}
        assert skipped.keys() == {"g", "h"}
        assert "has a caption that is an object instead of text" in skipped["g"]
        assert "is not JSON" in skipped["h"]
        assert any("not read" in note and "i.json" in note for note in index.notes), index.notes
    assert {item.caption for item in scan([Folder(str(tmp_path / "set"))], str(tmp_path / "cache"))} == {
        *("star", "from its text")
    }


def test_a_folder_with_images_and_an_archive_is_no_set_of_shards(images: Path, shards: str, tmp_path: Path) -> None:
    shutil.copytree(images, tmp_path / "both")
    shutil.copy(Path(shards) / "000.tar", tmp_path / "both" / "backup.tar")
    found = scan([Folder(str(tmp_path / "both"))], str(tmp_path / "cache"))
    assert any("archives, skipped: 1 (backup.tar)" in note for note in found.notes)


def test_a_name_that_two_shards_have_is_refused(shards: str, tmp_path: Path) -> None:
    shutil.copy(Path(shards) / "000.tar", Path(shards) / "001.tar")
    with pytest.raises(UserError, match=r"000\.tar and .*001\.tar more than once"):
        scan([Folder(shards)], str(tmp_path / "cache"))


def test_a_changed_shard_is_indexed_anew(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / "set" / f"{name}.png", caption=name)
        shutil.rmtree(tmp_path / "shards", ignore_errors=True)
        loralab("shards", tmp_path / "set", tmp_path / "shards")
        found = scan([Folder(str(tmp_path / "shards"))], str(tmp_path / "cache"))
    assert [item.caption for item in found] == ["a", "b"]


def test_listing_finds_files_and_folders() -> None:
    names = [b"b/x", b"a", b"b-c/x", b"b/c/x", b"b.png", b"b/a"]
    listing = Listing(Where(name, number, 0) for number, name in enumerate(names))
    assert [file.name for file in listing] == [b"a", b"b.png", b"b/a", b"b/x", b"b/c/x", b"b-c/x"]
    assert all(listing.find(name).size == number for number, name in enumerate(names))
    assert [file.name for file in listing.below(b"b")] == [b"b/a", b"b/x", b"b/c/x"]
    for name in (b"", b"b", b"b/c", b"zz"):
        with pytest.raises(FileNotFoundError):
            listing.find(name)
