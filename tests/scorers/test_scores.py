"""Scores against what transformers computes with the same files, and against what they are by definition."""

from __future__ import annotations

import json
import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loralab.report.scored import scored
from loralab.scorers import scorer as scorers
from loralab.scorers.embeddings import Embeddings
from loralab.scorers.scorer import scorer_problems
from loralab.scorers.scores import DIVERSITY, IMAGES, PROMPT, diversity, scores, to_images
from scripts.tiny_model import evaluate, pictures
from tests.support.clip_models import write_clip, write_siglip

CPU = torch.device("cpu")
PROMPTS = ["a sks star", "a sks star", "something else, and much longer than what a text encoder reads " * 9]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip") / "it")


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_siglip(tmp_path_factory.mktemp("siglip") / "it")


def noise(path: Path, size: tuple[int, int], seed: int, settings: str | None = None) -> Path:
    """An image of random pixels; settings: as a sample picture has them in it."""
    from PIL.PngImagePlugin import PngInfo

    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    info = PngInfo()
    if settings:
        info.add_itxt("parameters", settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, pnginfo=info)
    return path


def drawn(folder: Path, seeds: tuple[int, ...] = (0, 1, 0), step: int = 10) -> list[Path]:
    """The pictures of a run: two of one prompt and one of another."""
    return [
        noise(
            folder / "samples" / f"step{step:08d}-{i:02d}.png",
            (40, 40),
            100 * step + i,
            f"{prompt}\nNegative prompt: \nSteps: 20, CFG scale: 7, Seed: {seed}, Size: 40x40",
        )
        for i, (prompt, seed) in enumerate(zip(PROMPTS, seeds, strict=True))
    ]


def of_transformers(folder: Path, images: list[Path], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings in float64 by the classes of transformers, of unit length."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer, SiglipModel

    is_clip = json.loads((folder / "config.json").read_text())["model_type"] == "clip"
    model = (CLIPModel if is_clip else SiglipModel).from_pretrained(folder).double()
    pixels = CLIPImageProcessorPil.from_pretrained(folder)([Image.open(p) for p in images], return_tensors="pt")
    length = {"padding": True, "max_length": 77} if is_clip else {"padding": "max_length", "max_length": 24}
    words = CLIPTokenizer.from_pretrained(folder)(texts, truncation=True, return_tensors="pt", **length)
    with torch.no_grad():
        seen = model.get_image_features(pixels.pixel_values.double()).pooler_output.numpy()
        read = model.get_text_features(**words).pooler_output.numpy()
    return seen / np.linalg.norm(seen, axis=1, keepdims=True), read / np.linalg.norm(read, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_scores_are_those_of_transformers(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    training = [noise(tmp_path / f"{i}.png", (50 + 9 * i, 40), i) for i in range(3)]
    shown = drawn(tmp_path)
    found, unread = scored(tmp_path, training, Embeddings(str(folder), str(tmp_path / "cache"), CPU))
    assert not unread
    seen, read = of_transformers(folder, [*shown, *training], PROMPTS)
    mine, references = seen[:3], seen[3:]
    expected = {
        IMAGES: np.mean([a @ b for a in mine for b in references]),
        PROMPT: np.mean([a @ b for a, b in zip(mine, read, strict=True)]),
        DIVERSITY: 1 - mine[0] @ mine[1],
    }
    assert found[10] == pytest.approx(expected, abs=1e-6)


def test_scores_by_definition() -> None:
    vectors = torch.nn.functional.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    pairs = [1 - float(a @ b) for a, b in combinations(vectors, 2)]
    assert diversity(vectors) == pytest.approx(sum(pairs) / 15, abs=1e-6)
    assert diversity(vectors[:1].repeat(4, 1)) == pytest.approx(0, abs=1e-6)
    assert to_images(vectors[:1], vectors[:1]) == pytest.approx(1, abs=1e-6)
    assert DIVERSITY not in scores(vectors, vectors, range(6), None)
    assert IMAGES not in scores(vectors, vectors, range(6), None)
    assert scores(vectors, vectors, [0] * 6, vectors)[PROMPT] == pytest.approx(1, abs=1e-6)


def test_what_is_embedded_is_not_embedded_again(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the scorer: a second time it is not even loaded."""
    first, (second, new) = drawn(tmp_path)[0], (noise(tmp_path / f"{i}.png", (30, 30), i) for i in range(2))
    kept = Embeddings(str(clip), str(tmp_path / "cache"), CPU)
    before, text = kept.images([first, second]), kept.texts(PROMPTS)
    monkeypatch.setattr(scorers, "load", lambda *_: pytest.fail("loaded again"))
    again = Embeddings(str(clip), str(tmp_path / "cache"), CPU)
    after = again.images([first, second])
    assert all(torch.equal(before[file], after[file]) for file in (first, second))
    assert torch.equal(again.texts(PROMPTS), text)
    with pytest.raises(pytest.fail.Exception):
        again.images([new])
    noise(second, (31, 30), 9)
    with pytest.raises(pytest.fail.Exception):
        again.images([second])


def test_pictures_that_cannot_be_read_are_named(clip: Path, tmp_path: Path) -> None:
    shown = drawn(tmp_path)
    shown[0].write_bytes(shown[0].read_bytes()[:200])
    training = [noise(tmp_path / "a.png", (40, 40), 0), tmp_path / "gone.png", tmp_path / "no.png"]
    training[2].write_text("no image")
    found, unread = scored(tmp_path, training, Embeddings(str(clip), str(tmp_path / "cache"), CPU))
    assert [*found[10]] == [IMAGES, PROMPT]
    assert len(unread) == 3, unread


def test_the_classifier_tells_a_star_from_others(tmp_path: Path) -> None:
    """By pictures that were drawn, not sampled: with the right prompt the score is near 1."""
    judge = scorers.load("shapes", CPU)
    star, circle = (
        [np.asarray(pictures.picture(shape, "red", "blue", np.random.default_rng(i))) for i in range(8)]
        for shape in (pictures.STAR, "circle")
    )
    (text,) = judge.texts(["sks star, red, blue background"])
    of_star, of_circle = judge.images(star), judge.images(circle)
    assert (of_star @ text).min() > 0.95
    assert (of_circle @ text).max() < 0.75
    assert to_images(of_star, of_star) > 0.95 > 0.75 > to_images(of_circle, of_star)
    torch.testing.assert_close(of_star.norm(dim=1), torch.ones(8))
    worded = judge.texts(["blue background, red star", "a red star on a blue background", "star on blue background"])
    assert torch.equal(worded[0], text)
    assert torch.equal(worded[1], text)
    assert (of_star @ worded[2]).mean() < (of_star @ text).mean(), "no colour is named"
    assert judge.texts(["a cat"]).norm() == 0
    assert all(
        torch.equal(
            scorers.load("shapes", CPU).texts(["red circle, blue background", "a star"]),
            judge.texts(["red circle, blue background", "a star"]),
        )
        for _ in range(20)
    ), "the order of the questions differs"
    fresh = (evaluate.fresh_pictures(("heart",), 2, 3) + 1) / 2
    assert evaluate.classifier.load().classify(fresh)["shape"] == ["heart", "heart"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json"),
        (lambda f: (f / "config.json").write_text("{"), "config.json that cannot be read"),
        (lambda f: (f / "config.json").write_text("[]"), "config.json that cannot be read"),
        (lambda f: (f / "config.json").write_text('{"model_type": "clip_text_model"}'), "'clip_text_model'"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "incomplete: it has no preprocessor_config.json"),
        (lambda f: (f / "vocab.json").unlink(), "incomplete: it has no tokenizer.json or vocab.json"),
        (lambda f: (f / "model.safetensors").unlink(), "incomplete: it has no model*.safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]), "truncated"),
    ],
)
def test_a_folder_that_is_no_clip(clip: Path, tmp_path: Path, change, expected: str) -> None:
    import shutil

    shutil.copytree(clip, tmp_path / "it")
    assert not [*scorer_problems(str(tmp_path / "it"))]
    change(tmp_path / "it")
    (problem,) = scorer_problems(str(tmp_path / "it"))
    assert expected in problem.found
    assert problem.setting == "report.scorer"


@pytest.mark.parametrize("value", [3, True, "", math.inf, ["shapes"], "no/such/folder", __file__])
def test_what_is_no_scorer(value: object) -> None:
    (problem,) = scorer_problems(value)
    assert problem.setting == "report.scorer"
    assert problem.remedy
