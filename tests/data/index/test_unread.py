"""What lies beside images and is not read: said with names and counts, in training and by the doctor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from loralab import cli
from loralab.data import images
from loralab.data.captions import Captions
from loralab.data.folders import Folder
from loralab.data.index.index import Index, scan
from loralab.errors import UserError
from tests import GOLDEN

FOLDERS = GOLDEN / "folders"


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (64, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


def look(folder: Path, **rules: object) -> Index:
    return scan([Folder(str(folder), **rules)], str(folder.parent / "cache"))  # type: ignore[arg-type]


def test_the_doctor_and_a_training_say_the_same(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Of the captions' ending, system folders, and masks without effect; by default settings."""
    for case in ("dot_caption", "png_txt", "system_folders"):
        shutil.copytree(FOLDERS / case, tmp_path / "images", dirs_exist_ok=True)
    picture(tmp_path / "images" / "5_cat" / "9.png", "RGBA")
    picture(tmp_path / "masks" / "other.png")
    (tmp_path / "images" / "more.zip").write_bytes(b"PK")
    expected = [
        "data.folder: 3 files *.caption beside images not read, as data.captions.extension is .txt: "
        "set data.captions.extension=.caption to use them as captions",
        "data.folder: 3 files *.png.txt beside images not read, as data.captions.extension is .txt: "
        "set data.captions.extension=.png.txt to use them as captions",
        "data.folder: hidden and system files and folders, skipped: 2 ($RECYCLE.BIN, @eaDir)",
        "data.folder: archives, skipped: 1 (more.zip); extract them to use the images in them",
        f"data.folder: masks in {tmp_path / 'masks'} have no effect, as none has the path and name of an image: "
        "1, for example other",
        "images with transparency, composited on white: 1; data.alpha_mask=true uses transparency as the loss mask",
    ]
    words = [f"data.folder={tmp_path / 'images'}", f"data.mask_folder={tmp_path / 'masks'}", "data.resolution=64"]
    words.append(f"data.cache_folder={tmp_path / 'cache'}")
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", str(tmp_path / "images"), *words[1:], "--json"])
    assert stop.value.code == 0
    report = json.loads(capsys.readouterr().out)
    names = {"1.png", "2.png", "3.png", "001.png", "002.png", "9.png"}
    assert {Path(row["path"]).name for row in report["images"]} == names
    said = [finding["text"] for finding in report["findings"]]
    assert [note for note in expected if note not in said] == []
    train(*words, "data=folder", "trainer.max_steps=1", "model.resolution=64")
    opening = capsys.readouterr().out
    assert [note for note in expected if f"note      {note}\n" not in opening] == []


@pytest.mark.parametrize("transparent", [False, True])
def test_an_alpha_mask_without_transparency(transparent: bool, train, tmp_path: Path, capsys) -> None:
    """A palette's transparent colour is transparency, too, without any alpha channel."""
    picture(tmp_path / "images" / "a.png")
    if transparent:
        Image.new("P", (64, 64)).save(tmp_path / "images" / "b.png", transparency=0)
    words = [f"data.folder={tmp_path / 'images'}", "data.resolution=64", "data.alpha_mask=true"]
    words.append(f"data.cache_folder={tmp_path / 'cache'}")
    with pytest.raises(SystemExit):
        cli.main(["doctor", str(tmp_path / "images"), *words[1:]])
    told = " ".join(capsys.readouterr().out.split())
    train(*words, "data=folder", "trainer.max_steps=1", "model.resolution=64")
    opening = capsys.readouterr().out
    note = "data.alpha_mask has no effect: no image has transparency"
    assert (note in told, f"note      {note}\n" in opening) == (not transparent, not transparent)
    assert ("palette with a transparent colour" in told) == transparent


@pytest.mark.parametrize("extension", [".caption", "caption", ".png.txt", ".TXT"])
def test_the_setting_that_a_note_names_reads_them(extension: str) -> None:
    case = "dot_caption" if "caption" in extension else "png_txt"
    index = scan([Folder(str(FOLDERS / case), captions=Captions(extension=extension))])
    read = extension != ".TXT"
    assert [index.origin(position) == "file" for position in range(3)] == [read] * 3
    assert bool(index.notes) is not read


def test_captions_are_found_in_any_case(folder: Path) -> None:
    picture(folder / "a.JPG")
    (folder / "a.TXT").write_text("a cat")
    assert look(folder)[0].caption == "a cat"


def test_a_folder_of_the_list_names_its_own_setting(folder: Path) -> None:
    picture(folder / "a.png")
    (folder / "a.tags").write_text("a, b")
    (note,) = look(folder, setting="data.folders.2.path").notes
    assert note.startswith("data.folders.2.path: 1 file *.tags beside images")
    assert "set data.folders.2.captions.extension=.tags" in note


def test_every_other_file_is_counted_by_its_kind(folder: Path) -> None:
    for i in range(3):
        picture(folder / f"{i}.png")
        (folder / f"{i}.npz").write_bytes(b"\0\1")
        (folder / f"{i}.json").write_text("{}")
        (folder / f"{i}.xmp").write_text("<x/>")
        (folder / f"{i}.psd").write_bytes(b"8BPS")
    for name in ("video.mp4", "a.tar.gz", "b.CBZ", "captions.jsonl", "meta_cap.json", "README", "notes.md"):
        (folder / name).write_text("words")
    (folder / "captions").mkdir()
    for name in ("7.txt", "8.txt"):
        (folder / "captions" / name).write_text("of nothing here")
    assert [note.removeprefix("data.folder: ") for note in look(folder).notes] == [
        "caption files without an image: 2 (7.txt, 8.txt)",
        "not read: 2 (captions.jsonl, meta_cap.json); data.metadata=PATH reads captions from such a file",
        "images and videos of an unsupported format, skipped: 4 (3 *.psd, *.mp4); convert them to PNG or JPEG",
        "archives, skipped: 2 (a.tar.gz, b.CBZ); extract them to use the images in them",
        "other files, not read: 11 (3 *.json, 3 *.npz, 3 *.xmp, README, *.md)",
    ]


def test_a_metadata_file_that_another_replaces(folder: Path) -> None:
    picture(folder / "a.png")
    for name in ("metadata.jsonl", "given.jsonl"):
        (folder / name).write_text('{"file_name": "a.png", "text": "a cat"}')
    (note,) = look(folder, metadata=str(folder / "given.jsonl")).notes
    assert note.startswith("data.folder: not read: 1 (metadata.jsonl)")
    (note,) = look(folder).notes
    assert note.startswith("data.folder: not read: 1 (given.jsonl)")


SYSTEM = ("$RECYCLE.BIN", "System Volume Information", "@eaDir", "#recycle", "__MACOSX", "lost+found", ".thumbnails")


@pytest.mark.parametrize("name", [*SYSTEM, ".ipynb_checkpoints", ".Trash-1000", "$Recycle.Bin"])
def test_system_folders_are_no_images(name: str, folder: Path) -> None:
    picture(folder / "a.png")
    picture(folder / name / "b.png")
    index = look(folder)
    assert len(index) == 1
    assert index.notes == [f"data.folder: hidden and system files and folders, skipped: 1 ({name})"]


def test_system_files_are_counted_together(folder: Path) -> None:
    for i in range(4):
        picture(folder / f"{i}.png")
        (folder / f"._{i}.png").write_bytes(b"of a Mac")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (folder / name).write_bytes(b"\0")
    (note,) = look(folder).notes
    assert note.endswith("skipped: 7 (4 ._*, .DS_Store, Thumbs.db, desktop.ini)")


def test_masks_that_are_taken_for_images(folder: Path) -> None:
    for name in ("a.png", "b.png", "masks/a.png", "masks/b.png", "a-masklabel.png", "unmask.png"):
        picture(folder / name)
    notes = [note.removeprefix("data.folder: ") for note in look(folder).notes]
    assert notes[0].startswith("images trained on that seem to be masks (*-masklabel): 1;")
    assert notes[1].startswith("images trained on that seem to be masks (in masks): 2;")
    notes = look(folder, mask_folder=str(folder / "masks")).notes
    assert not any("in masks)" in note for note in notes)
    assert any(note.endswith("whose loss is not masked: 2") for note in notes)


def test_masks_without_an_image(folder: Path, tmp_path: Path) -> None:
    picture(folder / "a.png")
    for name in ("a.png", "b.png", "c.png"):
        picture(tmp_path / "masks" / name)
    (note,) = look(folder, mask_folder=str(tmp_path / "masks")).notes
    assert note.endswith("without an image: 2")


def test_a_folder_without_images_says_what_it_holds(folder: Path) -> None:
    picture(folder / "@eaDir" / "a.png")
    (folder / "all.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"archives, skipped: 1 \(all.zip\).*skipped: 1 \(@eaDir\)"):
        look(folder)


@pytest.mark.parametrize(("extension", "package"), [("heic", "pillow-heif"), ("jxl", "pillow-jxl-plugin")])
def test_a_format_of_an_extra(folder: Path, extension: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read where the package is there, whatever the file is called; else it is named."""
    pytest.importorskip("pillow_heif" if extension == "heic" else "pillow_jxl")
    images._formats()  # registers both
    path = picture(folder / f"a.{extension}", size=(48, 64))
    shutil.copy(path, folder / "b.jpg")
    assert [(item.width, item.height) for item in look(folder)] == [(48, 64)] * 2
    assert images.read(path)[0].shape == (64, 48, 3)
    shutil.rmtree(folder.parent / "cache")
    picture(folder / "c.png")
    monkeypatch.setattr(images, "_formats", lambda: ["PNG", "JPEG"])
    index = look(folder)
    assert len(index) == 1
    reason = f"needs {package}, which is not installed: pip install 'loralab[{extension}]'"
    assert [skipped.reason for skipped in index.skipped] == [reason] * 2
