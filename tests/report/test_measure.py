"""`loralab analyse --measure`: what the adapter has learnt, and captions that mislead the base model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loralab.schema.compose import PACKAGE
from tests.support.runs import command
from tests.support.verbs import loralab

TINY, SHAPES = PACKAGE / "assets" / "tiny", PACKAGE / "assets" / "shapes"


def analysed(run: Path, capsys: pytest.CaptureFixture, *words: str) -> dict[str, dict]:
    """The rows of `loralab analyse --json`, by file name, in their order."""
    capsys.readouterr()
    loralab("analyse", run, "--json", *words)
    return {Path(row["path"]).name: row for row in json.loads(capsys.readouterr().out)["rows"]}


@pytest.mark.slow
@pytest.mark.ci
def test_a_wrong_caption_is_found_and_an_adapter_without_effect_has_learnt_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for file in sorted((SHAPES / "reg" / "1_shape").iterdir())[: 2 * 12]:
        shutil.copy(file, images)
    (images / "003.txt").write_text("purple heart, red background")
    words = ("data=folder", f"data.folder={images}", "data.resolution=64", "data.buckets.step=8", "data.batch_size=6")
    run = command(TINY, tmp_path / "run", *words, "trainer.max_steps=6", "optimizer.lr=1e-9")
    assert not any(row["reasons"] for row in analysed(run, capsys).values()), "nothing is known yet"
    rows = analysed(run, capsys, "--measure", "6")
    assert len(rows) == 12
    assert [name for name, row in rows.items() if row["reasons"]] == [next(iter(rows))] == ["003.jpg"]
    assert rows["003.jpg"]["fit"]["low"] > 1
    assert "misleads" in rows["003.jpg"]["reasons"][0]
    assert [row["learnt"]["value"] for row in rows.values()] == pytest.approx([1] * 12, abs=1e-3)
    assert analysed(run, capsys) == rows, "what was measured is kept"
    (run / "losses" / "measured.json").write_text("{")
    assert rows.keys() == analysed(run, capsys).keys()
    shutil.move(images, tmp_path / "elsewhere")
    loralab("analyse", run, "--measure", code=1)
    told = capsys.readouterr().err
    assert "data.folder" in told
    assert "Traceback" not in told
    assert analysed(run, capsys, f"data.folder={tmp_path / 'elsewhere'}", "--measure", "6") == rows
    assert analysed(run, capsys) == rows, "an image is known by its content"
    for words, found in (((f"data.folder={tmp_path}",), "--measure"), (("seed=1", "--measure"), "valid: data.folder")):
        loralab("analyse", run, *words, code=1)
        assert found in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mistakes_in_the_images_of_the_demo_are_found(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The demo's images with three mistakes, trained as the demo is: noise is found by the log alone; a black image and
    a caption with the wrong colours, by measuring. A heart captioned as the new shape is not: the base model knows no
    better."""
    shutil.copytree(SHAPES / "train", tmp_path / "images")
    folder = tmp_path / "images" / "5_sks star"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    Image.new("RGB", (64, 64)).save(folder / "black.png")
    shutil.copy(SHAPES / "reg" / "1_shape" / "016.png", folder / "heart.png")
    captions = {
        "noise": "sks star, red, white background",
        "black": "sks star, orange, purple background",
        "003": "sks star, blue, green background",
        "heart": "sks star, purple, white background",
    }
    for name, caption in captions.items():
        (folder / f"{name}.txt").write_text(caption)
    words = ("data=folder", f"data.folder={tmp_path / 'images'}", f"data.reg_folder={SHAPES / 'reg'}", f"seed={seed}")
    words += ("data.resolution=64", "data.buckets.step=8", "data.cache.latents=memory", "objective/weighting=min_snr")
    words += ("trainer.max_steps=600", "data.batch_size=8", "ema.decay=0.99", "adapter.rank=16", "optimizer.lr=2e-3")
    run = command(TINY, tmp_path / "run", *words)
    flagged = [name for name, row in analysed(run, capsys).items() if row["reasons"]]
    assert flagged == ["noise.png"]
    flagged = [name for name, row in analysed(run, capsys, "--measure").items() if row["reasons"]]
    assert set(flagged) == {"noise.png", "black.png", "003.jpg"}
