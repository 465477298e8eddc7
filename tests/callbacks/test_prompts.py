"""Prompts: sd-scripts' three forms of a file, and what is said of those that cannot be drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from loralab import cli
from loralab.callbacks import contact_sheet, prompts
from loralab.callbacks.prompts import read
from loralab.errors import UserError
from tests import GOLDEN

PROMPTS = GOLDEN / "prompts"
CIRCLE, STAR = "red circle, blue background", "sks star, red"


def test_a_text_file_with_every_option_of_sd_scripts() -> None:
    found, ignored = read(str(PROMPTS / "kohya.txt"))
    circle = {"negative": "blurry, bad", "width": 64, "height": 96, "seed": 7, "guidance": 3.0, "steps": 4}
    assert found == [{"prompt": CIRCLE, **circle}, {"prompt": STAR, "seed": 8, "steps": 4}]
    assert ignored == {name: [f"line {n} of '{PROMPTS / 'kohya.txt'}'"] for name, n in (("--ss", 2), ("--am", 5))}


def test_a_toml_file() -> None:
    found, ignored = read(str(PROMPTS / "prompts.toml"))
    common = {"width": 64, "height": 64, "steps": 4}
    assert found == [
        {**common, "prompt": CIRCLE, "seed": 1},
        {**common, "prompt": STAR, "negative": "blurry", "guidance": 3},
    ]
    assert not ignored


def test_a_json_file_with_mappings_and_lines(tmp_path: Path) -> None:
    found, ignored = read(str(PROMPTS / "prompts.json"))
    assert found[:2] == read(str(PROMPTS / "prompts.toml"))[0]
    assert found[2] == {"prompt": "a line", "width": 72}
    place = f"prompt {{}} of '{PROMPTS / 'prompts.json'}'"
    assert ignored == {"sample_sampler": [place.format(2)], "--am": [place.format(3)]}
    file = tmp_path / "nested.json"
    file.write_text(json.dumps({"prompt": {"width": 64, "subset": [{"prompt": "a"}, {"prompt": "b", "width": 72}]}}))
    assert read(str(file))[0] == [{"prompt": "a", "width": 64}, {"prompt": "b", "width": 72}]


@pytest.mark.parametrize(
    ("line", "expected", "ignored"),
    [
        ("a cat", {"prompt": "a cat"}, []),
        ("a cat -- on a mat", {"prompt": "a cat -- on a mat"}, []),
        ("well-known--ish cat", {"prompt": "well-known--ish cat"}, []),
        ("a cat --W 64 --N bad, worse", {"prompt": "a cat", "width": 64, "negative": "bad, worse"}, []),
        ("a cat --w=64 --n", {"prompt": "a cat", "width": 64, "negative": ""}, []),
        ("a cat --d -1", {"prompt": "a cat"}, []),
        ("a cat --l 7", {"prompt": "a cat", "guidance": 7}, []),
        (
            "a --g 3.5 --cn c.png --i i.png --fs 3 --ctr 0.2 --rcfg 1 --ow 64 --s 3",
            {"prompt": "a", "steps": 3},
            ["--g", "--cn", "--i", "--fs", "--ctr", "--rcfg", "--ow"],
        ),
    ],
)
def test_lines(line: str, expected: dict[str, Any], ignored: list[str], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text(f"\n{line}\r\n", encoding="utf-8-sig")
    for given in (str(file), [line]):
        where = "prompt 1" if given == [line] else f"line 2 of '{file}'"
        assert read(given) == ([expected], {option: [where] for option in ignored})


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"", ["contains no prompt"]),
        ("comments.txt", b"\n # a\n\r\n", ["contains no prompt"]),
        ("empty.json", b"[]", ["contains no prompt"]),
        ("empty.toml", b"", ["contains no prompts"]),
        ("subset.toml", b"[prompt]\nwidth = 64\nsubset = []", ["contains no prompt"]),
        ("common.toml", b"[prompt]\nwidth = 64", ["prompt 1", "no prompt"]),
        ("no.json", b'[{"width": 64}]', ["prompt 1", "no prompt"]),
        ("deep.json", b"[" * 100_000, ["not valid JSON"]),
        ("number.json", b"[3]", ["prompt 1", "invalid prompt: 3"]),
        ("value.json", b'{"a": 1}', ["contains no prompts"]),
        ("broken.toml", b"[prompt", ["not valid TOML"]),
        ("latin.txt", "ein Mädchen".encode("latin-1"), ["not UTF-8"]),
        ("wide.txt", "a cat".encode("utf-16"), ["not UTF-8"]),
        ("wide.json", "[]".encode("utf-16-le"), ["binary"]),
        ("prompts.yaml", b"- a cat", [".txt, .toml, .json"]),
        ("flags.txt", b"a\n--w 64", ["line 2", "no prompt"]),
        ("steps.txt", b"a --s 2000\nb --s 0\nc --s 2.5", ["line 1", "steps: 2000", "line 2", "line 3", "2.5", "1000"]),
        ("sides.txt", b"a --w 500\nb --h 0\nc --w 64px", ["width: 500", "multiple of 8", "height: 0", "64px"]),
        ("scale.txt", b"a --l -1\nb --l nan\nc --l 1e9\nd --l", ["guidance: -1", "line 2", "line 3", "line 4"]),
        ("types.json", b'[{"prompt": "a", "width": true, "seed": "x"}]', ["width: True", "seed: 'x'"]),
    ],
)
def test_what_is_wrong_is_said_with_its_place(name: str, content: bytes, words: list[str], tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read(str(file))
    assert all(word in str(error.value) for word in [prompts.SETTING, name, *words]), str(error.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], ["empty"]),
        ("a cat, " * 100, ["not found", "list"]),
        ("no\0where", ["not found"]),
        ("", ["folder"]),
        ([{"prompt": "a", "promt": "b"}, {"width": 7, "prompt": "c"}], ["prompt 1", "promt", "prompt 2", "width: 7"]),
    ],
)
def test_what_is_wrong_in_settings(given: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        read(given)
    assert all(word in str(error.value) for word in [prompts.SETTING, *words]), str(error.value)


def test_prompts_are_refused_before_a_model_is_loaded(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("a --s 2000")
    samples = "callbacks.samples"
    for words in (f"{samples}.prompts={PROMPTS / 'empty.txt'}", f"{samples}.prompts={wrong}", f"{samples}.steps=2000"):
        train(words, f"{samples}.enabled=true", "model.base=is/not/there", name="refused", code=1)
        assert words.split("=")[0] in capsys.readouterr().err
    train(f"{samples}.prompts={wrong}", "trainer.max_steps=1", name="not_drawn")


def test_a_run_draws_what_it_knows_and_names_the_rest(train, capsys: pytest.CaptureFixture) -> None:
    folder = train("callbacks.samples.enabled=true", f"callbacks.samples.prompts={PROMPTS / 'kohya.txt'}")
    said = capsys.readouterr().out
    assert "2 prompts at 64×64, 64×96, 4 sampling steps · before, after training" in said
    file = PROMPTS / "kohya.txt"
    assert f"ignored: --ss (line 2 of '{file}'), --am (line 5 of '{file}')" in said
    first, second = sorted((folder / "samples").glob("step00000003-*.png"))
    assert Image.open(first).size == (64, 96)
    assert "Negative prompt: blurry, bad\nSteps: 4, CFG scale: 3, Seed: 7" in Image.open(first).text["parameters"]
    assert "Steps: 4, CFG scale: 3, Seed: 8" in Image.open(second).text["parameters"]


@pytest.mark.parametrize("by", ["settings", "training"])
@pytest.mark.parametrize("form", ["file", "inline"])
def test_options_in_prompts_of_a_settings_file(by: str, form: str, train, tmp_path: Path, capsys) -> None:
    """Whatever is ignored of a prompts file, or of prompts in the settings themselves, is said with its place."""
    lines = "a cat --zz 3 --w 64 --h 64 --s 1\na dog --w 64 --h 64 --s 1 --zz\na fish --sm k --w 64 --h 64 --s 1"
    (tmp_path / "prompts.txt").write_text(f"# drawn\n{lines}")
    given = {"LoRA_type": "Standard", "sample_every_n_epochs": 9, "sample_at_first": True, "max_train_steps": 1}
    given["sample_prompts"] = str(tmp_path / "prompts.txt") if form == "file" else lines
    file = tmp_path / "gui.json"
    file.write_text(json.dumps(given | {"optimizer": "AdamW", "mixed_precision": "no", "learning_rate": 1e-4}))
    if by == "training":
        train(f"settings.load={file}", "data=shapes", "callbacks.samples.enabled=true")
        said = "".join(capsys.readouterr())
    else:
        assert _verb(str(file)) == 0
        said = capsys.readouterr().out
        assert _verb(str(file), "--json") == 0
        notes = json.loads(capsys.readouterr().out)["notes"]
        assert sum("--zz" in note for note in notes) == 1
    first, third = ("prompt 1", "prompt 3") if form == "inline" else ("line 2 of", "line 4 of")
    assert said.count("--zz (") == 1, said
    assert f"--zz ({first}" in said
    assert " and 1 more), --sm (" in said
    assert f"--sm ({third}" in said


def _verb(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["settings", *words])
    return int(stop.value.code or 0)


@pytest.mark.parametrize("form", ["file", "inline"])
def test_wrong_values_in_prompts_of_a_settings_file(form: str, tmp_path: Path, capsys) -> None:
    lines = "a cat --w 64px\na dog --s 2000"
    (tmp_path / "prompts.txt").write_text(lines)
    given = {"sample_prompts": str(tmp_path / "prompts.txt") if form == "file" else lines, "sample_at_first": True}
    file = tmp_path / "gui.json"
    file.write_text(json.dumps({"LoRA_type": "Standard", **given}))
    assert _verb(str(file)) == (1 if form == "inline" else 0)
    said = "".join(capsys.readouterr())
    place = "prompt" if form == "inline" else "line"
    assert f"{place} 1" in said
    assert "invalid width: '64px'" in said
    assert f"{place} 2" in said
    assert "invalid steps: 2000" in said


def test_own_images_are_drawn_by_default(train, random_base: Path, tmp_path: Path, capsys) -> None:
    """From the first four different captions, or from none where there are none; said at the start."""
    for i in range(6):
        path = tmp_path / "images" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (40 * i, 0, 0)).save(path)
    words = ("data=folder", f"data.folder={tmp_path / 'images'}", "model.resolution=64", "callbacks.samples.steps=1")
    words += (
        "callbacks.samples.enabled=${suggested.pictures}",
        "trainer.max_steps=1",
        "callbacks.samples.every_n_steps=1",
    )
    silent = train(*words, name="silent") / "samples"
    assert sorted(path.name for path in silent.iterdir()) == ["grid.png", "step00000000-00.png", "step00000001-00.png"]
    for i in range(6):
        (tmp_path / "images" / f"{i}.txt").write_text(f"a cat, {i // 2 * 2}")
    capsys.readouterr()
    spoken = train(*words, name="spoken") / "samples"
    said = capsys.readouterr().out
    assert "3 captions of the images at 64×64, 1 sampling steps · before, every 1 steps, after training" in said
    drawn = {Image.open(path).text["parameters"].split("\n")[0] for path in spoken.glob("step00000001*")}
    assert drawn == {"a cat, 0", "a cat, 2", "a cat, 4"}


def test_a_sheet_has_a_bounded_size(tmp_path: Path) -> None:
    """Whatever the size of the pictures and their number, the first and the last row are on it."""
    picture = Image.effect_noise((1024, 768), 40).convert("RGB")
    thumbnail = contact_sheet.thumbnail(picture)
    assert thumbnail.size == (256, 192)
    for rows, columns in ((1, 1), (12, 4), (100, 3), (3, 50), (40, 40)):
        names = [f"step {number}" for number in range(rows)]
        sheet = contact_sheet.grid(dict.fromkeys(names, [thumbnail] * columns), ["words " * 200] * columns)
        assert sheet.width * sheet.height < 7e6, (rows, columns)
    assert contact_sheet._spread(names)[::23] == [names[0], names[-1]]
    assert contact_sheet.grid({"small": [Image.new("RGB", (64, 64))]}, [""]).width > 2 * 64
