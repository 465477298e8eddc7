"""The doctor: what a training would make of images, as text, JSON and a page, without a model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loralab.data.augment import Augment
from loralab.data.buckets import Buckets
from loralab.data.captions import Captions
from loralab.data.epoch.draws import BatchSize
from loralab.data.epoch.planner import Planner
from loralab.data.folders import gather
from loralab.data.validation import Validation
from loralab.models.text.tokens import CHUNK, VOCABULARY, in_chunks, tokens_of
from loralab.tools.doctor import examine
from loralab.tools.doctor_html import to_html
from loralab.tools.doctor_report import Finding, Report
from loralab.tools.doctor_text import to_text
from loralab.tools.looks import Look, near_duplicates
from tests import GOLDEN
from tests.support.base_models import write_tokenizer
from tests.support.images import broken_files


def photo(path: Path, size: tuple[int, int] = (96, 64), seed: int = 0, caption: str | None = None, **options) -> Path:
    """Soft blobs, like no other seed's."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, **options)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "images"


@pytest.fixture
def look(tmp_path: Path, folder: Path):
    """The report of a folder under some settings."""

    def look(
        captions: Captions | None = None,
        reg_folder: Path | None = None,
        counter: Callable[[str], list[str]] | None = None,
        **changes,
    ) -> Report:
        captions = captions or Captions()
        folders = gather(str(folder), [], reg_folder and str(reg_folder), captions, Augment())
        examined = {name: changes.pop(name) for name in ("accumulate", "decode") if name in changes}
        write_tokenizer(tmp_path / "tokenizer") if not (tmp_path / "tokenizer").exists() else None
        measure = in_chunks(counter or tokens_of(str(tmp_path)), changes.pop("max_tokens", CHUNK))
        planned = {"sizes": [(64, 64)], "batch": BatchSize(2), "buckets": Buckets(step=8), "validation": Validation()}
        planner = Planner(folders, captions=captions, cache_folder=str(tmp_path / "cache"), **{**planned, **changes})
        return examine(planner, measure, **examined)

    return look


def findings(report: Report, kind: str) -> list[tuple[str, list[str]]]:
    """Texts and file names of the findings of one kind."""
    return [(f.text, [Path(path).name for path in f.images]) for f in report.findings if f.kind == kind]


def test_the_json_is_a_contract(folder: Path, look) -> None:
    photo(folder / "3_sks" / "wide.png", (96, 64), 1, "sks star")
    photo(folder / "3_sks" / "tall.png", (64, 100), 2)
    photo(folder / "square.png", (128, 128), 3, "")
    (folder / "broken.png").write_bytes(b"")
    report = json.loads(look(accumulate=2).to_json())
    assert list(report) == ["images", "buckets", "totals", "findings"]
    rows = {Path(row["path"]).name: row for row in report["images"]}
    assert rows["wide.png"] == {
        "path": str(folder / "3_sks" / "wide.png"),
        "width": 96,
        "height": 64,
        "bucket": [80, 48],
        "resized": [80, 53],
        "crop": [0, 2],
        "repeats": 3,
        "caption": "sks star",
        "tokens": 2,
        "problem": None,
    }
    assert (rows["tall.png"]["caption"], rows["tall.png"]["repeats"]) == ("sks", 3)
    assert (rows["square.png"]["bucket"], rows["square.png"]["tokens"]) == ([64, 64], 0)
    assert rows["broken.png"]["problem"] == "is an empty file"
    assert rows["broken.png"]["bucket"] is None
    assert report["buckets"] == [
        {"resolution": rows["tall.png"]["bucket"], "images": 1, "batches": 2},
        {"resolution": [64, 64], "images": 1, "batches": 1},
        {"resolution": [80, 48], "images": 1, "batches": 2},
    ]
    assert report["totals"] == {"images": 3, "repeated": 7, "batches_per_epoch": 5, "skipped": 1}
    (epoch,) = [f["text"] for f in report["findings"] if f["kind"] == "epoch"]
    assert epoch == "7 samples, 5 batches and 3 optimizer steps per epoch"


def test_the_doctor_plans_what_training_plans(folder: Path, look, random_family, tmp_path: Path) -> None:
    from loralab.data.cache import Cache
    from loralab.data.module import DataModule

    for number in range(7):
        photo(folder / f"{number % 3 + 1}_x" / f"{number}.png", (64 + 9 * number, 80), number)
    photo(tmp_path / "reg" / "1_y" / "r.png", (64, 64), 50)
    photo(folder / "broken.png").write_bytes(b"")
    changes = {"buckets": Buckets(step=8, partial="merge"), "validation": Validation(split=0.3)}
    report = look(reg_folder=tmp_path / "reg", sizes=[(64, 64), (96, 96)], **changes)
    module = DataModule(
        0,
        folder=str(folder),
        reg_folder=str(tmp_path / "reg"),
        resolution=[[64, 64], [96, 96]],
        batch_size=2,
        cache_folder=str(tmp_path / "cache"),
        captions=Captions(),
        augment=Augment(),
        cache=Cache(),
        **changes,
    )
    module.attach(random_family)
    summary = module.summary()
    assert report.totals.repeated == summary["draws"] == len(module.plan.draws)
    assert report.totals.batches_per_epoch == summary["batches"] == sum(row.batches for row in report.buckets)
    assert report.totals.skipped == len(summary["skipped"]) == 1
    assert report.totals.images == summary["images"] + summary["regularisation"] - summary["held_out"]
    assert 0 < summary["held_out"] < 7, "images, not their sizes"
    buckets = [(list(row.resolution), row.images, row.samples) for row in report.buckets]
    assert buckets == [(row["size"], row["images"], row["draws"]) for row in summary["buckets"]]


def test_enlarged_and_cropped_images(folder: Path, look) -> None:
    photo(folder / "fits.png", (128, 128), 1)
    photo(folder / "small.png", (32, 32), 2)
    photo(folder / "long.png", (400, 64), 3)
    report = look()
    assert findings(report, "upscaled") == [("upscaled to fill the bucket, by a factor of up to 2.0", ["small.png"])]
    ((text, names),) = findings(report, "cropped")
    assert names == ["long.png"]
    assert "20%" in text


def test_duplicates_and_near_duplicates(folder: Path, look, tmp_path: Path) -> None:
    first = photo(folder / "a.png", (120, 80), 1)
    (folder / "copy.png").write_bytes(first.read_bytes())
    Image.open(first).resize((60, 40)).save(folder / "smaller.jpg", quality=80)
    brighter = np.clip(np.asarray(Image.open(first)).astype(int) + 4, 0, 255).astype(np.uint8)
    Image.fromarray(brighter).save(folder / "brighter.png")
    for number in range(10):
        photo(folder / f"other{number}.png", (120, 80), 100 + number)
    (tmp_path / "reg").mkdir()
    (tmp_path / "reg" / "same.png").write_bytes((folder / "other0.png").read_bytes())
    report = look(reg_folder=tmp_path / "reg")
    assert findings(report, "duplicates") == [
        ("2 files contain the same image", ["a.png", "copy.png"]),
        ("2 files contain the same image, both for training and for regularisation", ["other0.png", "same.png"]),
    ]
    ((_, names),) = findings(report, "near_duplicates")
    assert sorted(names) == ["a.png", "brighter.png", "copy.png", "smaller.jpg"]


def test_near_duplicates_are_those_that_comparing_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    marks = rng.integers(0, 256, (40, 11), np.uint8)
    marks = np.concatenate([marks, marks, marks])
    for mark in marks[40:]:
        for bit in rng.integers(0, 64, rng.integers(0, 7)):
            mark[bit // 8] ^= 1 << bit % 8
    looks = [Look(mark.tobytes()) for mark in marks] + [Look(b"", "damaged")]

    groups = [{i} for i in range(120)]
    for i in range(120):
        for j in range(i):
            apart = np.unpackbits(marks[i, :8] ^ marks[j, :8]).sum()
            if apart <= 4 and np.abs(marks[i, 8:].astype(int) - marks[j, 8:]).max() <= 12:
                joined = groups[i] | groups[j]
                for member in joined:
                    groups[member] = joined
    expected = {frozenset(group) for group in groups if len(group) > 1}
    assert expected
    assert {frozenset(group) for group in near_duplicates(looks)} == expected


def test_damage_within_is_found_by_decoding(folder: Path, look) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    folder.mkdir()
    Image.fromarray(noise).save(folder / "damaged.png")
    data = bytearray((folder / "damaged.png").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 100] = bytes(100)
    (folder / "damaged.png").write_bytes(data)
    photo(folder / "good.png")
    report = look()
    (row,) = [row for row in report.images if row.problem]
    assert Path(row.path).name == "damaged.png"
    assert report.totals.images == 1
    assert not report.fatal
    assert look(decode=False).totals.images == 2
    assert look(on_error="stop").fatal


def test_captions_tags_and_the_trigger_word(folder: Path, look) -> None:
    photo(folder / "2_x" / "a.png", seed=1, caption="sks, star, red")
    photo(folder / "2_x" / "b.png", seed=2, caption="sksy star, " + "long words " * 40)
    photo(folder / "c.png", seed=3)
    photo(folder / "d.png", seed=4, caption="")
    report = look(Captions(trigger="sks"), max_tokens=75)
    assert findings(report, "no_caption") == [("no caption", ["c.png"])]
    assert findings(report, "empty_caption") == [("empty caption file", ["d.png"])]
    ((_, cut),) = findings(report, "cut_captions")
    assert cut == ["b.png"]
    ((text, without),) = findings(report, "trigger")
    assert "1 of 4 captions" in text
    assert sorted(without) == ["b.png", "c.png", "d.png"]
    assert report.tags["star"] == 2
    assert report.tags["red"] == 2
    captions = {Path(row.path).name: row.caption for row in report.images}
    assert captions["c.png"] == "sks"


def test_turned_and_converted_images(folder: Path, look) -> None:
    exif = Image.Exif()
    exif[274] = 6
    photo(folder / "turned.jpg", seed=1, exif=exif)
    Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(folder / "deep.png")
    Image.new("CMYK", (64, 64)).save(folder / "print.jpg")
    report = look()
    assert findings(report, "turned") == [("rotated or mirrored by the EXIF orientation", ["turned.jpg"])]
    assert sorted(names[0] for _, names in findings(report, "converted")) == ["deep.png", "print.jpg"]
    (row,) = [row for row in report.images if row.path.endswith("turned.jpg")]
    assert (row.width, row.height) == (64, 96)


def test_a_folder_given_one_level_too_deep(folder: Path, look, tmp_path: Path) -> None:
    deep = tmp_path / "10_cat"
    photo(deep / "a.png")
    folder.symlink_to(deep)
    assert findings(look(), "misplaced") == []
    folder.unlink()
    deep.rename(folder.with_name("10_images"))
    folders = gather(str(folder.with_name("10_images")), [], None, Captions(), Augment())
    planner = Planner(
        folders, [(64, 64)], BatchSize(1), Buckets(step=8), Captions(), Validation(), cache_folder=str(tmp_path / "c")
    )
    ((text, _),) = findings(examine(planner, in_chunks(tokens_of(str(tmp_path))), decode=False), "misplaced")
    assert f"did you mean {tmp_path}" in text


@pytest.mark.parametrize("why", ["missing", "empty", "stop", "overlong", "drop"])
def test_what_would_stop_training_is_fatal(folder: Path, look, why: str) -> None:
    changes: dict = {}
    if why != "missing":
        folder.mkdir()
    if why in ("stop", "overlong", "drop"):
        photo(folder / "a.png", caption="many words " * 40)
    if why == "stop":
        (folder / "b.png").write_bytes(b"")
        changes = {"on_error": "stop"}
    elif why == "overlong":
        changes = {"captions": Captions(overlong="error")}
    elif why == "drop":
        changes = {"buckets": Buckets(step=8, partial="drop")}
    report = look(**changes)
    assert report.fatal
    words = {"missing": "not found", "empty": "usable", "stop": "empty file", "overlong": "too long", "drop": "batch"}
    (error,) = [finding for finding in report.findings if finding.level == "error"]
    assert words[why] in error.text
    assert json.loads(report.to_json())["findings"][-1]["level"] == "error"


class Tags(HTMLParser):
    """What a page asks for, and whether its elements are closed in order."""

    VOID = ("meta", "link", "img", "br", "th", "td", "tr", "li", "rect", "path", "image", "html")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_the_page_needs_nothing_else_and_the_text_says_the_same(folder: Path, look) -> None:
    photo(folder / "4_<b>bold" / "a&b.png", seed=1)
    photo(folder / "wide.jpg", (200, 50), 2, "<script>alert(1)</script>, tag")
    for path in broken_files(folder).values():
        path.touch()
    report = look()
    page = to_html(report, "doctor: <images>")
    parser = Tags()
    parser.feed(page)
    assert parser.open == []
    assert len([r for r in parser.references if r.startswith("data:image/jpeg;base64,")]) >= 2
    assert all(reference.startswith("data:") for reference in parser.references)
    assert "<script" not in page
    assert "a&amp;b.png" in page
    assert "http" not in re.sub(r"base64,[^']*", "", page)

    text = to_text(report)
    for row in report.buckets:
        assert re.search(
            rf"{row.resolution[0]} × {row.resolution[1]} +{row.images} +{row.samples} +{row.batches} ", text
        )
    assert f"{report.totals.images} images" in text
    assert "skipped: an empty file" in text


def test_a_strange_file_name_does_no_harm(folder: Path, look) -> None:
    folder.mkdir()
    name = b"\xff \x1b[31mred\n.png"
    try:
        Path(folder / "a.png").write_bytes(b"")
        (Path(photo(folder / "good.png"))).rename(Path(str(folder)) / name.decode("utf8", "surrogateescape"))
    except OSError:
        pytest.skip("not a name on this file system")
    report = look()
    (row,) = [row for row in json.loads(report.to_json())["images"] if row["problem"] is None]
    assert row["path"].encode("utf8", "surrogateescape").endswith(name)
    assert "\x1b" not in to_text(report)
    to_html(report, "x").encode("utf8")


@pytest.mark.parametrize("sign", ["\x1b]0;title\x07", "\x9b31m", "\u202e"])
def test_what_a_terminal_would_obey_in_captions_and_folders_is_not_printed(sign: str, folder: Path, look) -> None:
    photo(folder / f"2_{sign}x" / "a.png", seed=1, caption=f"{sign}tag, other")
    report = look()
    assert sign[0] not in to_text(report)
    assert sign[0] not in to_html(report, f"doctor: {sign}")


def test_tokens_are_those_of_the_models_tokenizer(tmp_path: Path) -> None:
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    write_tokenizer(tmp_path / "tokenizer")
    reference = CLIPTokenizer.from_pretrained(str(tmp_path / "tokenizer"))
    counter = tokens_of(None, str(tmp_path))
    texts = ["", "a sks star", "  Été: 3 stars, it's\nraining!  ", "under_score (weird:1.2) 画像 🎨", "x" * 300]
    for text in texts:
        assert counter(text) == reference.tokenize(text), text
    reference.save_pretrained(str(tmp_path / "saved"))
    (tmp_path / "saved" / "vocab.json").unlink(missing_ok=True)
    assert tokens_of(str(tmp_path / "saved"))("a sks star") == counter("a sks star")
    weighted = tokens_of(str(tmp_path), emphasis=True)
    assert weighted("a (red:1.2) [star]") == [*reference.tokenize("a "), *reference.tokenize("red star")]


@pytest.mark.parametrize("place", [None, "nothing/here", "model.safetensors"])
def test_without_a_vocabulary_of_the_model_it_is_clips(place: str | None) -> None:
    """The ids are those of another library's tokenizer, whose clean-up of odd characters the texts have no need of."""
    names = list(json.loads((VOCABULARY / "vocab.json").read_text("utf8")))
    for text, ids in json.loads((GOLDEN / "clip_tokens.json").read_text("utf8")).items():
        assert tokens_of(place)(text) == [names[i] for i in ids], text


COMMAND = """
import sys
from loralab.cli import main
try:
    main(["doctor", *sys.argv[1:]])
finally:
    assert not {"torch", "lightning", "transformers"} & set(sys.modules), "heavy"
"""


def test_the_command(folder: Path, tmp_path: Path) -> None:
    photo(folder / "2_cat" / "a.png")
    arguments = [f"data.folder={folder}", f"data.cache_folder={tmp_path / 'cache'}"]  # data=folder goes without saying

    def run(*more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", COMMAND, *arguments, *more]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    result = run("--json", "--html", str(tmp_path / "page.html"))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["totals"]["repeated"] == 2
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    arguments[0] = f"data.folder={tmp_path / 'nothing'}"
    assert run().returncode == 1


@pytest.mark.parametrize("name", ["plain", "with blank, comma (and) = 'signs' $x", "Größe", "10_cat"])
def test_a_path_will_do(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """In front of settings and flags or behind them; several are a folder each."""
    from loralab import cli

    def run(*words: str) -> tuple[int, dict]:
        with pytest.raises(SystemExit) as stop:
            cli.main(["doctor", *words])
        return int(stop.value.code or 0), json.loads(capsys.readouterr().out)

    path = photo(tmp_path / name / "a.png", caption="a cat")
    settings = ["--json", "data.resolution=64", f"data.cache_folder={tmp_path / 'cache'}"]
    code, report = run(*settings, str(path.parent))
    assert (code, [row["path"] for row in report["images"]]) == (0, [str(path)])
    other = photo(tmp_path / "other" / "b.png", seed=1)
    code, report = run(str(path.parent), str(other.parent), *settings)
    assert [row["path"] for row in report["images"]] == [str(path), str(other)]
    for wrong, words in ((str(path), "is a file, not a folder"), (str(tmp_path / "nowhere"), "folder not found")):
        code, report = run(wrong, *settings)
        assert code == 1
        assert words in report["findings"][0]["text"]


def test_damaged_images_of_the_validation_are_told(folder: Path, look, tmp_path: Path) -> None:
    photo(folder / "a.png", (64, 64), 1)
    photo(tmp_path / "apart" / "whole.png", (64, 64), 2)
    whole = photo(tmp_path / "apart" / "broken.png", (64, 64), 3).read_bytes()
    (tmp_path / "apart" / "broken.png").write_bytes(whole[:100] + bytes(20) + whole[120:])
    report = look(validation=Validation(folder=str(tmp_path / "apart")))
    assert (report.fatal, report.totals.skipped) == (False, 1)
    assert [Path(row.path).name for row in report.images if row.problem] == ["broken.png"]
    assert look(validation=Validation(folder=str(tmp_path / "apart")), on_error="stop").fatal


def test_the_signs_of_weighted_captions_are_no_tokens(folder: Path, look, tmp_path: Path) -> None:
    photo(folder / "a.png", caption="(hat:1.2), " * 12)
    assert [kind.text for kind in look().findings if kind.kind == "cut_captions"]
    report = look(counter=tokens_of(str(tmp_path), emphasis=True))
    assert not [kind.text for kind in report.findings if kind.kind == "cut_captions"]


def test_what_the_command_refuses(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from loralab import cli

    photo(folder / "a.png")
    words = ["doctor", f"data.folder={folder}", f"data.cache_folder={tmp_path / 'cache'}"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "data.buckets.step=60", "--json"])
    assert stop.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert "data.buckets.step" in found["findings"][0]["text"]
    assert found["images"] == []
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "--html", str(folder)])
    assert stop.value.code == 1
    assert "--html" in capsys.readouterr().err


def test_findings_without_end_are_counted() -> None:
    report = Report(findings=[Finding("duplicates", "warning", f"pair {n}", ["a", "b"]) for n in range(150)])
    text = to_text(report)
    assert "pair 9" in text
    assert "pair 10" not in text
    assert "140 more findings of the kind 'duplicates'" in text
