"""`loralab grid`: what it draws, compared with what a run, a merged model and diffusers' own pipeline draw."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from loralab import signals
from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.callbacks.prompts import Prompt
from loralab.files import digest_file
from loralab.grid.cells import sheet
from loralab.grid.choose import Checkpoint
from loralab.grid.main import ROWS
from loralab.models.families import sdxl
from loralab.models.families.sd import load
from loralab.models.preview import start_noise
from tests.support.pipelines import pipeline_of
from tests.support.reports import shown
from tests.support.runs import command
from tests.support.verbs import loralab

PROMPTS = ("a cat", "a red dog")


@pytest.fixture(scope="module")
def run(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps that has drawn its prompts before, between and after them."""
    folder = tmp_path_factory.mktemp("grid") / "run"
    samples = ("enabled=true", "steps=3", "every_n_steps=1", "guidance=2", f"prompts=[{','.join(PROMPTS)}]", "seed=5")
    pictures = (f"callbacks.samples.{each}" for each in samples)
    more = ("trainer.max_steps=2", "optimizer.lr=0.05", "callbacks.export.every_n_steps=1", "suggested.batch_size=2")
    return command(random_base, folder, *pictures, *more)


@pytest.fixture(scope="module")
def drawn(run: Path) -> Path:
    """The grid of the run alone."""
    loralab("grid", run)
    return run / "grid.png"


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def by_settings(folder: Path) -> dict[tuple[str | None, float | None, str, int], np.ndarray]:
    """The pictures of a grid: digest of the adapter, strength, prompt, seed → pixels."""
    found = {}
    for file in folder.glob("*.png"):
        with Image.open(file) as image:
            told = json.loads(image.info["loralab"])
        found[told.get("adapter"), told.get("strength"), told["prompt"], told["seed"]] = pixels(file)
    return found


def differ(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one - other).max())


def test_at_full_strength_it_draws_what_the_run_has_drawn(run: Path, drawn: Path) -> None:
    """And of the base model what was drawn before the first step; the default strengths are 0.5 and 1."""
    found = by_settings(drawn.with_suffix(""))
    files = {step: digest_file(run / f"adapter-step{step:08d}.safetensors") for step in (1, 2)}
    assert len(found) == len(PROMPTS) * (1 + 2 * 2)
    for step, (number, prompt) in product((0, 1, 2), enumerate(PROMPTS)):
        picture = found[(files[step], 1.0, prompt, 5) if step else (None, None, prompt, 5)]
        assert differ(picture, pixels(run / "samples" / f"step{step:08d}-{number:02d}.png")) <= 1
        if step:
            half = found[files[step], 0.5, prompt, 5]
            assert min(differ(half, picture), differ(half, found[None, None, prompt, 5])) > 1


def test_it_draws_what_diffusers_draws(run: Path, drawn: Path, random_base: Path) -> None:
    family = load(str(random_base), resolution=64)
    pipeline, file = pipeline_of(family), run / "adapter.safetensors"
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(run), weight_name=file.name, adapter_name="it")
    found, noise = by_settings(drawn.with_suffix("")), start_noise([5], family.latent_shape(64, 64))
    for strength in (0.5, 1.0):
        pipeline.set_adapters(["it"], [strength])
        given = {"num_inference_steps": 3, "guidance_scale": 2.0, "latents": noise, "output_type": "np"}
        image = pipeline(PROMPTS[1], negative_prompt="", width=64, height=64, **given).images[0]
        assert differ((image * 255).round().astype(int), found[digest_file(file), strength, PROMPTS[1], 5]) <= 1


def test_at_half_strength_it_draws_what_a_model_with_half_of_the_change_draws(
    run: Path, drawn: Path, random_base: Path, tmp_path: Path
) -> None:
    adapter = run / "adapter.safetensors"
    loralab("merge", adapter, "--weights", 0.5, "--base", random_base, "-o", tmp_path / "half")
    shutil.copy(adapter, tmp_path)
    model = ("model=tiny", f"model.base={tmp_path / 'half'}", "callbacks.samples.steps=3")
    words = ("callbacks.samples.guidance=2", "--strength", 0, "--seeds", 5, "--out", tmp_path / "merged.png")
    loralab("grid", tmp_path / "adapter.safetensors", *model, *words, *(f"--prompts={each}" for each in PROMPTS))
    merged, found = by_settings(tmp_path / "merged"), by_settings(drawn.with_suffix(""))
    assert len(merged) == len(PROMPTS)  # strength 0 is the base model
    for prompt in PROMPTS:
        assert differ(merged[None, None, prompt, 5], found[digest_file(adapter), 0.5, prompt, 5]) <= 1


def test_only_what_is_missing_is_drawn(run: Path, drawn: Path, capfd: pytest.CaptureFixture) -> None:
    pictures = sorted(drawn.with_suffix("").glob("*.png"))
    before = {file: file.stat().st_mtime_ns for file in pictures}
    whole = pixels(drawn)
    loralab("grid", run)
    assert "10 pictures, 0 to draw" in capfd.readouterr().out
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:-100])
    loralab("grid", run, "--strength", "1,0.5")
    assert "10 pictures, 2 to draw" in capfd.readouterr().out
    assert {file for file in pictures if file.stat().st_mtime_ns != before[file]} == {*pictures[:2]}
    loralab("grid", run)
    assert differ(pixels(drawn), whole) <= 1


def test_ctrl_c_keeps_what_is_drawn(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    words = ("--strength", 1, "--prompts=a", "--seeds=1,2,3,4,5,6,7,8,9", "--out", tmp_path / "g.png")

    def stop() -> None:
        while not [*tmp_path.glob("g/*.png")]:
            time.sleep(0.01)
        with suppress(signals.Interrupted):
            signals.request(signal.SIGINT)

    thread = threading.Thread(target=stop)
    thread.start()
    loralab("grid", run, *words, "callbacks.samples.steps=20", code=128 + signal.SIGINT)
    thread.join()
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.glob("g/*.png")}
    assert 0 < len(kept) < 27
    assert f"interrupted: {len(kept)} of 27 pictures were drawn and are kept in" in capfd.readouterr().err
    assert not (tmp_path / "g.png").exists()
    loralab("grid", run, *words, "callbacks.samples.steps=20")
    assert f"27 pictures, {27 - len(kept)} to draw" in capfd.readouterr().out
    assert all(file.stat().st_mtime_ns == when for file, when in kept.items())


def test_a_large_grid_is_split(run: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    """And a smaller one in its place leaves no part of it behind."""
    words = ("--strength", 0, "--checkpoints", "last", "callbacks.samples.steps=1", "callbacks.samples.guidance=1")
    loralab(
        "grid", run, *words, "--seeds", ",".join(map(str, range(ROWS + 1))), "--prompts=a", "--out", tmp_path / "g.png"
    )
    assert sorted(file.name for file in tmp_path.glob("*.png")) == ["g-part1.png", "g-part2.png"]
    with Image.open(tmp_path / "g-part1.png") as one, Image.open(tmp_path / "g-part2.png") as two:
        assert one.height > ROWS * 64 > two.height
        assert two.info["Title"].startswith("2 of 2 · ")
    loralab("grid", run, *words, "--seeds", 0, "--prompts=a", "--out", tmp_path / "g.png")
    assert "1 pictures, 0 to draw" in capfd.readouterr().out
    assert [file.name for file in tmp_path.glob("*.png")] == ["g.png"]


def test_the_prompts_of_a_killed_run_s_settings_and_the_files_that_are_left(run: Path, tmp_path: Path) -> None:
    killed = Path(shutil.copytree(run, tmp_path / "killed", ignore=shutil.ignore_patterns("samples", "grid*")))
    facts = json.loads((killed / "run.json").read_text())
    del facts["files"]
    (killed / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    (killed / "adapter.safetensors").unlink()
    loralab("grid", killed, "--strength", 1, "--checkpoints", 1)
    found = by_settings(killed / "grid")
    assert {(prompt, seed) for _, _, prompt, seed in found} == {(prompt, 5) for prompt in PROMPTS}
    assert {digest for digest, *_ in found} == {None, digest_file(run / "adapter-step00000001.safetensors")}


def test_the_sheet_holds_its_settings(drawn: Path) -> None:
    with Image.open(drawn) as image:
        info = dict(image.info)
        assert image.width > 5 * 128
    assert info["Software"] == "loralab grid"
    assert all(words in info["Title"] for words in ("base model sd", "seed 5", "guidance 2"))
    assert "a red dog <lora:adapter-step00000001:0.5>\nNegative prompt: \nSteps: 3, CFG scale: 2" in info["parameters"]


def test_a_stranger_s_file_draws_the_same_in_any_layout(
    run: Path, drawn: Path, random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It tells nothing of its training: the base model is asked for by its family."""
    save_file(load_file(run / "adapter.safetensors"), tmp_path / "kohya.safetensors")
    loralab("convert", tmp_path / "kohya.safetensors", "--layout", "diffusers", "-o", tmp_path / "peft.safetensors")
    files = [tmp_path / "kohya.safetensors", tmp_path / "peft.safetensors"]
    loralab("grid", files[0], "--prompts", PROMPTS[0], code=1)
    assert "does not tell its base model\n    → add model=sd" in capsys.readouterr().err
    model = ("model=tiny", f"model.base={random_base}", "callbacks.samples.steps=3", "callbacks.samples.guidance=2")
    words = ("--strength", 1, "--seeds", 5, "--prompts", PROMPTS[0], "--out", tmp_path / "g.png")
    loralab("grid", *files, *model, *words)
    found, ours = by_settings(tmp_path / "g"), by_settings(drawn.with_suffix(""))
    digests = [digest_file(file) for file in (*files, run / "adapter.safetensors")]
    assert len(set(digests)) == 3
    for digest in digests[:2]:
        assert differ(found[digest, 1.0, PROMPTS[0], 5], ours[digests[2], 1.0, PROMPTS[0], 5]) <= 1


def test_a_miniature_has_modules_of_its_own(random_base: Path, tmp_path: Path) -> None:
    family = sdxl.miniature(str(random_base / "tokenizer"))
    adapters = inject(family, LoRA(rank=2), Targets(text_encoder=False))
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter += 1.0
    save_file(adapters.state(), tmp_path / "it.safetensors")
    words = ("model=tiny_sdxl", "callbacks.samples.steps=2", "--strength=-1,1", "--prompts", "a")
    loralab("grid", tmp_path / "it.safetensors", *words, "--out", tmp_path / "g.png")
    one, other, base = by_settings(tmp_path / "g").values()
    assert min(differ(one, other), differ(one, base), differ(other, base)) > 1


def test_a_report_shows_it(run: Path, drawn: Path, tmp_path: Path) -> None:
    """One of several runs lies above them; a damaged one is named, and one that is gone is gone."""
    above, damaged = run.parent / "grid-2.png", run.parent / "grid-3.png"
    shutil.copy(drawn, above)
    damaged.write_bytes(drawn.read_bytes()[:2000])
    page = tmp_path / "report" / "index.html"
    loralab("report", run.parent, "--out", page.parent)
    values = shown(page)
    assert [grid["place"] for grid in values["grids"]] == [str(above), str(drawn)]
    assert "seed 5" in values["grids"][0]["title"]
    assert (page.parent / f"{values['grids'][1]['file']}.png").read_bytes() == drawn.read_bytes()
    assert any("grid-3.png is damaged" in note for note in values["notes"])
    above.unlink()
    damaged.unlink()
    loralab("report", run.parent, "--out", page.parent)
    assert len([*(page.parent / "index_files" / "grids").iterdir()]) == 2


def test_mistakes_are_refused_before_a_model_is_loaded(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("mine.png")
    sdxl = {"lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": torch.ones(2, 4)}
    sdxl["lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_up.weight"] = torch.ones(4, 2)
    save_file(sdxl, "sdxl.safetensors")
    (tmp_path / "empty").mkdir()
    mistakes = {
        (run, "--strength", "0.5,much"): "--strength: invalid value 'much'",
        (run, "--strength", "nan"): "--strength: invalid value 'nan'",
        (run, "--seeds", "1.5"): "--seeds: invalid value '1.5'",
        (run, "--prompts", "none.txt"): "--prompts: 'none.txt' not found",
        (run, "--prompts", "word " * 80): "cut off; the limit is 75",
        (run, "--checkpoints", "7"): "--checkpoints: no file was saved at '7'\n    → valid: all, last, 1, 2",
        (run, "--out", "grid.jpg"): "--out: 'grid.jpg' is no name of a PNG file",
        (run, "--out", "mine.png"): "--out: 'mine.png' already exists, and is no grid",
        (run, "optimizer.lr=1"): "optimizer.lr: has no effect on a grid",
        (run, "model.base=nowhere"): "model.base: 'nowhere' was not found",
        ("nowhere",): "nowhere: was not found",
        ("empty",): "empty: contains no run.json",
        ("mine.png", "model=tiny", "--prompts", "a"): "is not a checkpoint",
        ("sdxl.safetensors", "model=tiny", "--prompts", "a"): "is an adapter for SDXL, but the base",
        (run / "adapter.safetensors", "sdxl.safetensors"): "sdxl.safetensors: does not tell its base model",
    }
    for words, said in mistakes.items():
        loralab("grid", *words, code=1)
        assert said in capsys.readouterr().err, words
    assert Image.open("mine.png").size == (8, 8)
    assert not [*tmp_path.glob("grid*")]


def prompt(text: str = "a", seed: int = 0, **settings) -> Prompt:
    return Prompt(
        **{"prompt": text, "negative": "", "seed": seed, "width": 64, "height": 64, "steps": 2, "guidance": 7.0}
        | settings
    )


def test_the_axes_are_those_that_have_several_values() -> None:
    one, two = (Checkpoint("run", f"step {n}", Path(f"{n}"), f"{n}") for n in (1, 2))
    other = Checkpoint("another", "step 2", Path("3"), "3")
    wide = sheet([one, two], [0.5, 1.0], [prompt("a"), prompt("b")], "base")
    assert wide.columns == ["base model", *(f"step {n}\nstrength {s}" for n in (1, 2) for s in ("0.5", "1"))]
    assert [*wide.rows] == ["a", "b"]
    assert wide.title == "base model base · run · seed 0 · 64×64 · 2 sampling steps · guidance 7"
    tall = sheet([one, two], [0.5, 1.0], [prompt("a")], "base")
    assert tall.columns == ["base model", "strength 0.5", "strength 1"]
    assert [*tall.rows] == ["step 1", "step 2"]
    seeds = sheet([two, other], [1.0], [prompt(seed=1), prompt(seed=2)], "base")
    assert seeds.columns == ["base model", "run", "another"]
    assert [*seeds.rows] == ["seed 1", "seed 2"]
    assert "strength 1 · a · 64×64" in seeds.title
    assert [*sheet([one], [1.0], [prompt(steps=2), prompt(steps=9)], "base").rows] == [
        "2 sampling steps",
        "9 sampling steps",
    ]
    assert sheet([one], [1.0], [prompt("a")], "base").columns == ["base model", "adapter"]
