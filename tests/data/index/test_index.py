"""From folders to items: what is found, what is left out and why, and what a second look costs."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from loralab.data import images
from loralab.data.augment import Augment
from loralab.data.captions import Captions
from loralab.data.folders import Folder, gather
from loralab.data.index.index import Index, scan
from loralab.errors import UserError
from tests.support.images import broken_files, picture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


@pytest.fixture
def look(tmp_path: Path, folder: Path):
    """Scans with an index database of the test's own."""

    def look(*folders: Folder, **options) -> Index:
        return scan(folders or [Folder(str(folder))], str(tmp_path / "cache"), **options)

    return look


def test_repeats_and_class_tokens_come_from_the_folders_names(folder: Path, look) -> None:
    picture(folder / "plain.png")
    picture(folder / "10_sks star" / "a.png")
    picture(folder / "10_sks star" / "b.png", caption="a blue star")
    picture(folder / "10_sks star" / "deeper" / "c.jpg")
    picture(folder / "10_sks star" / "3_moon" / "d.webp")
    picture(folder / "no number" / "e.PNG", (30, 20))
    found = {Path(item.path).name: (item.repeats, item.caption) for item in look()}
    assert found == {
        "plain.png": (1, ""),
        "a.png": (10, "sks star"),
        "b.png": (10, "a blue star"),
        "c.jpg": (10, "sks star"),
        "d.webp": (3, "moon"),
        "e.PNG": (1, ""),
    }


def test_a_number_alone_repeats_nothing_and_is_told(folder: Path, look) -> None:
    picture(folder / "10" / "a.png")
    picture(folder / " 4_moon" / "b.png")
    index = look()
    assert [item.repeats for item in index] == [4, 1]
    assert [note for note in index.notes if "the folder name 10 sets no repeats; rename it to 10_NAME" in note]


def test_several_folders_have_their_own_settings(tmp_path: Path, look) -> None:
    picture(tmp_path / "a" / "x.png", caption="sidecar")
    picture(tmp_path / "b" / "y.png")
    (tmp_path / "b" / "y.caption").write_text("other extension")
    picture(tmp_path / "masks" / "y.jpg")
    picture(tmp_path / "reg" / "2_thing" / "z.png")
    index = look(
        Folder(str(tmp_path / "a"), repeats=3),
        Folder(
            str(tmp_path / "b"),
            weight=0.5,
            class_tokens="unused here",
            captions=Captions(extension="caption"),
            mask_folder=str(tmp_path / "masks"),
        ),
        Folder(str(tmp_path / "reg"), is_reg=True),
    )
    x, y, z = index
    assert (x.caption, x.repeats, x.weight, x.source, x.is_reg, x.mask) == ("sidecar", 3, 1.0, 0, False, None)
    assert (y.caption, y.weight, y.source, y.mask) == ("other extension", 0.5, 1, str(tmp_path / "masks" / "y.jpg"))
    assert (z.caption, z.repeats, z.source, z.is_reg) == ("thing", 2, 2, True)
    assert [index.origin(i) for i in range(3)] == ["file", "file", "folder"]


def test_masks_within_the_folder_are_no_images_and_what_has_no_partner_is_told(folder: Path, look) -> None:
    picture(folder / "a.png")
    picture(folder / "b.png")
    picture(folder / "masks" / "a.png")
    (folder / "c.txt").write_text("of no image")
    index = look(Folder(str(folder), mask_folder=str(folder / "masks")))
    assert index.notes[1].endswith("caption files without an image: 1 (c.txt)")
    assert [item.mask for item in index] == [str(folder / "masks" / "a.png"), None]
    assert index.notes[0].endswith("whose loss is not masked: 1")


ROWS = {"a.png": "first, tag", "sub/b.png": "second", "gone.png": "third"}


def write_metadata(path: Path) -> Path:
    kind = path.suffix
    if kind == ".json":
        table = {"a": {"caption": "first", "tags": "tag"}, str(path.parent / "sub" / "b.png"): {"caption": "second"}}
        path.write_text(json.dumps({**table, "gone": {"tags": "third"}}))
    elif kind == ".jsonl":
        path.write_text("\n".join(json.dumps({"file_name": k, "text": v}) for k, v in ROWS.items()))
    elif kind == ".csv":
        with open(path, "w", newline="") as file:
            csv.writer(file).writerows([("file_name", "caption"), *ROWS.items()])
    else:
        table = pytest.importorskip("pyarrow")
        import pyarrow.parquet

        columns = {"file_name": list(ROWS), "text": list(ROWS.values())}
        pyarrow.parquet.write_table(table.table(columns), path)
    return path


@pytest.mark.parametrize("kind", [".json", ".jsonl", ".csv", ".parquet"])
def test_captions_from_one_metadata_file(folder: Path, look, kind: str) -> None:
    picture(folder / "a.png", caption="not this one")
    picture(folder / "sub" / "b.png")
    picture(folder / "sub" / "c.png", caption="its own")
    path = write_metadata(folder / f"metadata{kind}")
    index = look(Folder(str(folder), metadata=str(path) if kind == ".json" else None))
    assert [item.caption for item in index] == ["first, tag", "second", "its own"]
    assert [index.origin(i) for i in range(3)] == ["metadata", "metadata", "file"]
    assert [reason for _, reason in index.skipped] == [f"is listed in metadata{kind} but was not found"]


def test_a_metadata_file_holds_for_what_lies_below_it(folder: Path, look) -> None:
    for name in ("a.png", "train/5_x/b.png", "train/c.png", "train/deep/d.png"):
        picture(folder / name, caption="its own")
    (folder / "metadata.csv").write_text("file_name,text\na.png,root\nc.png,root too\ntrain/deep/d.png,far\n")
    rows = [{"file_name": "5_x/b.png", "text": "near"}, {"file_name": "c.png", "text": "nearest"}]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "train" / "metadata.csv").write_text("file_name,text\n")
    index = look()
    found = {Path(item.path).name: (item.caption, item.repeats) for item in index}
    assert found == {"a.png": ("root", 1), "b.png": ("near", 5), "c.png": ("nearest", 1), "d.png": ("far", 1)}
    assert index.skipped == []
    assert [note for note in index.notes if "metadata.jsonl is used; metadata.csv beside it ignored" in note]


def test_a_name_that_is_another_images_path_is_not_taken(folder: Path, look) -> None:
    for name in ("im.png", "sub/im.png", "sub/other.png", "0_off/off.png"):
        picture(folder / name, caption="its own")
    rows = ["im.png,first", "other.png,second", "off.png,third", "im.png,last"]
    (folder / "metadata.csv").write_text("file_name,text\n" + "\n".join(rows))
    index = look()
    assert {Path(item.path).relative_to(folder).as_posix(): item.caption for item in index} == {
        "im.png": "last",
        "sub/im.png": "its own",
        "sub/other.png": "second",
    }
    assert index.skipped == [], "what is repeated 0 times is there"
    assert any("replaced by later ones on the same image: 1" in note for note in index.notes)


@pytest.mark.parametrize(("name", "repeats"), [("3000000000_x", 1), ("x", 99_999_999_999)])
def test_absurd_repeats_are_refused(folder: Path, look, name: str, repeats: int) -> None:
    picture(folder / name / "a.png")
    with pytest.raises(UserError, match="repeated"):
        look(Folder(str(folder), repeats=repeats))


def test_every_wrong_key_of_a_folder_is_told_with_the_nearest_one(folder: Path) -> None:
    entry = {"path": str(folder), "repeat": 3, "captions": {"shufle": True}, "augment": 5}
    with pytest.raises(UserError) as error:
        gather(None, [entry], None, Captions(), Augment())
    found = {problem.setting: problem.remedy for problem in error.value.problems}
    assert found["data.folders.0.repeat"] == "did you mean 'repeats'?"
    assert found["data.folders.0.captions.shufle"] == "did you mean 'shuffle'?"
    assert "data.folders.0.augment" in found


def test_what_metadata_names_in_vain_is_told_in_its_order(folder: Path, look) -> None:
    picture(folder / "a.png")
    names = [f"gone {number}.png" for number in (3, 1, 2, 9, 4)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,text", *(f"{name},x" for name in names)]))
    assert [Path(path).name for path, _ in look().skipped] == names


def test_odd_cells_of_metadata(folder: Path, look) -> None:
    table = {
        "a": {"caption": "line one\r\nline two", "tags": ["t1", "t2"]},
        "b": None,
        "c": ["p", "q"],
        "d": {"caption": float("nan"), "tags": None},
        "e": {"caption": 5, "tags": "\ud800"},
    }
    for name in table:
        picture(folder / f"{name}.png", caption="its own")
    (folder / "m.json").write_text(json.dumps(table))
    rules = Captions(separator=";")
    index = look(Folder(str(folder), metadata=str(folder / "m.json"), captions=rules))
    assert [item.caption for item in index] == [
        "line one; t1; t2\nline two; t1; t2",
        "its own",
        "p; q",
        "its own",
        "5; ?",
    ]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.json", '{"a": ', "cannot be read"),
        ("m.jsonl", '{"text": "no name"}', "file_name"),
        ("m.txt", "", "invalid extension"),
        ("m.csv", None, "not found"),
        ("m.csv", "file_name,text\n,a", "row without"),
        ("m.json", "5", "neither"),
        ("m.json", "[" * 100_000, "cannot be read"),
        ("m.json", '{"a": {"caption": {"x": 1}}}', "an object instead of text"),
    ],
)
def test_bad_metadata_is_one_message(folder: Path, look, name: str, content: str | None, words: str) -> None:
    picture(folder / "a.png")
    path = folder.parent / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=words) as error:
        look(Folder(str(folder), metadata=str(path)))
    assert error.value.problems[0].setting == "data.metadata"
    assert name in str(error.value)


def test_a_second_look_reads_only_what_changed(folder: Path, look, headers_read: list[str]) -> None:
    for name in "abc":
        picture(folder / f"{name}.png", caption=name)
    first = list(look())
    assert sorted(headers_read) == ["a.png", "b.png", "c.png"]
    headers_read.clear()
    assert list(look()) == first
    assert headers_read == []

    picture(folder / "a.png", (30, 20))
    (folder / "b.png").unlink()
    (folder / "c.txt").write_text("other words")
    picture(folder / "d.png")
    again = {Path(item.path).stem: item for item in look()}
    assert sorted(headers_read) == ["a.png", "d.png"]
    assert sorted(again) == ["a", "c", "d"]
    assert (again["a"].width, again["a"].height) == (30, 20)
    assert again["c"].caption == "other words"


def test_an_edit_that_keeps_size_and_time_is_noticed(folder: Path, look) -> None:
    path = folder / "a.bmp"
    Image.new("RGB", (16, 12), "red").save(path)
    before = path.stat()
    digest = look().hashed(str(folder.parent / "cache"))[0].digest
    Image.new("RGB", (16, 12), "blue").save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert look().hashed(str(folder.parent / "cache"))[0].digest != digest


def test_content_hashes_are_kept(folder: Path, look, tmp_path: Path) -> None:
    picture(folder / "a.png")
    picture(folder / "b.png", colour="blue")
    assert [item.digest for item in look()] == ["", ""]
    first, second = look().hashed(str(tmp_path / "cache"))
    assert first.digest != second.digest
    assert [item.digest for item in look()] == [first.digest, second.digest]
    (folder / "c.png").write_bytes((folder / "a.png").read_bytes())
    assert look().hashed(str(tmp_path / "cache"))[2].digest == first.digest


def test_the_dataset_is_never_written_to(folder: Path, look, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(folder / "a.png", caption="a")
    before = sorted(folder.rglob("*"))
    look().hashed(str(folder.parent / "cache"))
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(UserError, match=r"data\.cache_folder"):
        scan([Folder(str(folder))], str(folder / "cache"))
    assert sorted(folder.rglob("*")) == before


def test_unusable_images_are_skipped_and_listed(folder: Path, look) -> None:
    picture(folder / "good.png")
    damaged = broken_files(folder)
    for path in folder.glob("whole.*"):
        path.unlink()
    index = look()
    assert [Path(item.path).name for item in index] == ["good.png"]
    assert sorted(path for path, _ in index.skipped) == sorted(map(str, damaged.values()))
    with pytest.raises(UserError) as error:
        look(on_error="stop")
    assert {problem.setting for problem in error.value.problems} == set(map(str, damaged.values()))


def test_odd_sizes_are_images(folder: Path, look) -> None:
    picture(folder / "a.png", (1, 1))
    picture(folder / "b.png", (1, 20_000))
    assert [(item.width, item.height) for item in look()] == [(1, 1), (1, 20_000)]


def test_images_outside_of_the_limits_are_left_out_and_counted(folder: Path, look) -> None:
    for name, size in {"small": (10, 50), "good": (20, 50), "large": (20, 90)}.items():
        picture(folder / f"{name}.png", size)
    index = look(min_size=20, max_size=80)
    assert [Path(item.path).stem for item in index] == ["good"]
    assert index.notes[0].endswith("max_image_size: 2")


@pytest.mark.parametrize(
    "name", ["spaces in it.png", "línea 画像 🎨.png", "new\nline.png", "quote'\".png", b"\xff\xfe.png"]
)
def test_any_file_name_will_do(folder: Path, look, name: str | bytes) -> None:
    path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
    try:
        picture(path, caption="found")
    except OSError:
        pytest.skip("not a name on this file system")
    for _ in range(2):
        (item,) = look()
        assert (item.path, item.caption) == (str(path), "found")
        assert images.read(item.path)[0].shape == (12, 16, 3)


def test_links_are_followed_but_not_in_circles(folder: Path, look) -> None:
    picture(folder / "sub" / "a.png")
    picture(folder.parent / "elsewhere" / "b.png")
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "5_linked").symlink_to(folder.parent / "elsewhere")
    (folder / "broken.png").symlink_to(folder / "nothing")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    index = look()
    assert [(Path(item.path).name, item.repeats) for item in index] == [("b.png", 5), ("a.png", 1)]
    reasons = {Path(path).name: reason for path, reason in index.skipped}
    assert reasons.keys() == {"loop", "broken.png", "pipe.png"}
    assert "link" in reasons["loop"]


def test_folders_that_link_to_each_other_come_to_an_end(folder: Path, look) -> None:
    """Ten folders that each hold a link to every other: ways through them are as many as the orders of ten."""
    for name in "abcdefghij":
        picture(folder / name / f"{name}.png")
        for other in "abcdefghij".replace(name, ""):
            (folder / name / other).symlink_to(folder / other)
    index = look()
    assert {Path(item.path).name for item in index} == {f"{name}.png" for name in "abcdefghij"}
    assert len(index) == 108, (
        "of each its own, those of the nine that it links to; eight on the first way, by two links"
    )
    assert "is a link to a folder already read" in {reason for _, reason in index.skipped}


@pytest.mark.parametrize("time_of", [0, 4_000_000_000])
def test_an_edit_under_any_date_is_noticed(folder: Path, look, time_of: int) -> None:
    path = picture(folder / "a.bmp", caption="old")
    for file in (path, path.with_suffix(".txt")):
        os.utime(file, (time_of, time_of))
    before = look().hashed(str(folder.parent / "cache"))[0]
    picture(path, colour="blue", caption="new")
    for file in (path, path.with_suffix(".txt")):
        os.utime(file, (time_of, time_of))
    after = look().hashed(str(folder.parent / "cache"))[0]
    assert after.caption == "new"
    assert after.digest != before.digest


@pytest.mark.parametrize("given", ["link", "dots", "image_link"])
def test_a_cache_in_the_dataset_is_refused_by_any_name(folder: Path, tmp_path: Path, given: str) -> None:
    picture(folder / "a.png")
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "x").mkdir()
    places = {
        "link": tmp_path / "link" / "c",
        "dots": tmp_path / "x" / ".." / "images" / "c",
        "image_link": folder / "c",
    }
    images = tmp_path / "link" if given == "image_link" else folder
    with pytest.raises(UserError, match="is inside the image folder"):
        scan([Folder(str(images))], str(places[given]))
    assert not (folder / "c").exists()


def test_hidden_files_are_not_looked_at(folder: Path, look) -> None:
    picture(folder / "a.png")
    (folder / "._a.png").write_bytes(b"of a Mac")
    picture(folder / ".thumbnails" / "b.png")
    index = look()
    assert len(index) == 1
    assert index.skipped == []


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\xe9t\xe9", "UTF-8"), (b"\xff\xfea\0", "UTF-8"), (b"a\0b", "binary"), (b"tag, " * 1_000_000, "longer")],
)
def test_a_caption_file_that_is_none(folder: Path, look, content: bytes, words: str) -> None:
    picture(folder / "a.png")
    picture(folder / "b.png")
    (folder / "a.txt").write_bytes(content)
    index = look()
    assert [Path(item.path).name for item in index] == ["b.png"]
    ((path, reason),) = index.skipped
    assert path == str(folder / "a.png")
    assert words in reason
    with pytest.raises(UserError, match=words):
        look(on_error="stop")


def test_captions_in_utf8(folder: Path, look) -> None:
    picture(folder / "a.png", caption="\ufeffétoile, 星\r\n\r\n second ")
    picture(folder / "b.png", caption="")
    index = look()
    assert [item.caption for item in index] == ["étoile, 星\nsecond", ""]
    assert index.origin(1) == "file"


WITHOUT_RIGHTS = """
import os, sys
from loralab.data.folders import Folder
from loralab.data.index.index import scan
warm, folder, cache = sys.argv[1:]
scan([Folder(warm)], warm + "-cache")  # all modules are imported while they still may be
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
index = scan([Folder(folder)], cache)
print([os.path.basename(item.path) for item in index])
print(sorted(os.path.basename(path) + " " + reason for path, reason in index.skipped))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_what_may_not_be_read_is_skipped(tmp_path_factory: pytest.TempPathFactory) -> None:
    top = tmp_path_factory.mktemp("rights")
    for above in (top, *top.parents):
        if not above.stat().st_mode & 0o005:
            above.chmod(0o755)
    folder = top / "images"
    picture(top / "warm" / "a.png")
    picture(folder / "good.png")
    picture(folder / "secret.png").chmod(0)
    picture(folder / "closed" / "x.png").parent.chmod(0)
    (top / "cache").mkdir()
    (top / "cache").chmod(0o777)
    arguments = [sys.executable, "-c", WITHOUT_RIGHTS, str(top / "warm"), str(folder), str(top / "cache")]
    result = subprocess.run(arguments, capture_output=True, text=True, check=False)
    (folder / "closed").chmod(0o755)
    assert result.returncode == 0, result.stderr
    good, skipped = result.stdout.splitlines()
    assert good == "['good.png']"
    assert "closed cannot be opened (Permission denied)" in skipped
    assert "secret.png cannot be read (permission denied)" in skipped


@pytest.mark.parametrize("make", ["nothing", "empty", "file", "no_images"])
def test_a_folder_without_images_is_an_error_that_names_the_setting(folder: Path, look, make: str) -> None:
    if make == "nothing":
        folder.rmdir()
    elif make == "file":
        folder.rmdir()
        folder.write_text("")
    elif make == "no_images":
        (folder / "notes.txt").write_text("")
        (folder / "a.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        look()
    assert error.value.problems[0].setting == "data.folder"
    assert str(folder) in str(error.value)


def test_an_error_names_the_setting_of_the_folder_that_it_is_about(folder: Path, look, tmp_path: Path) -> None:
    picture(folder / "a.png")
    gone = str(tmp_path / "gone")
    entries = [{"path": str(folder)}, {"path": gone}, {"path": str(folder), "mask_folder": gone}]
    entries += [{"path": str(folder), "metadata": gone + ".json"}]
    given = gather(str(folder), entries, gone, Captions(), Augment(), metadata=gone + ".csv")
    names = ["data.metadata", "data.folders.1.path", "data.folders.2.mask_folder", "data.folders.3.metadata"]
    for bad, name in zip([*given[:1], *given[2:]], [*names, "data.reg_folder"], strict=True):
        with pytest.raises(UserError, match="gone") as error:
            look(bad)
        assert error.value.problems[0].setting == name


def test_a_damaged_database_is_begun_anew(folder: Path, look, tmp_path: Path) -> None:
    picture(folder / "a.png", caption="a")
    before = list(look())
    (database,) = (tmp_path / "cache").glob("*.sqlite")
    database.write_bytes(b"this is no database" * 1000)
    assert list(look()) == before
    assert list(look()) == before


def test_a_database_damaged_within_is_begun_anew(folder: Path, look, tmp_path: Path) -> None:
    for number in range(300):
        picture(folder / f"{number:03}.png", caption="a" * 100)
    before = list(look())
    (database,) = (tmp_path / "cache").glob("*.sqlite")
    data = bytearray(database.read_bytes())
    data[4096:] = os.urandom(len(data) - 4096)
    database.write_bytes(data)
    assert list(look()) == before


def scan_in_a_process(arguments: tuple[str, str]) -> int:
    return len(scan([Folder(arguments[0])], arguments[1]).hashed(arguments[1]))


def test_several_processes_at_once(folder: Path, tmp_path: Path) -> None:
    for number in range(200):
        picture(folder / f"{number % 7}_x" / f"{number}.png", caption=str(number))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        counts = pool.map(scan_in_a_process, [(str(folder), str(tmp_path / "cache"))] * 6, chunksize=1)
    assert set(counts) == {200 - 29}  # those repeated 0 times are left out
    with sqlite3.connect(next((tmp_path / "cache").glob("*.sqlite"))) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_an_index_is_small_and_can_be_sent_to_workers(folder: Path, look) -> None:
    import pickle

    for name in "abc":
        picture(folder / "4_x" / f"{name}.png")
    index = look().without({1: "not wanted"})
    copy = pickle.loads(pickle.dumps(index))
    assert list(copy) == list(index)
    assert [Path(item.path).stem for item in copy] == ["a", "c"]
    assert index.skipped[-1].reason == "not wanted"
    assert index[-1] == index[1]
