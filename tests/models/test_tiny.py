"""The embedded base model: small, at ease with any text, and as good as docs/tiny-model.md says."""

from __future__ import annotations

import re
import unicodedata

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from scripts.tiny_model import classifier, evaluate, pictures, tokenizer, vae

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def pipeline():
    return evaluate.load()


@pytest.fixture(scope="module")
def words() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(evaluate.SHIPPED / "tokenizer")


def bare(text: str) -> str:
    """What a CLIP tokenizer promises to keep: NFC, lower case letter by letter, everything but white space."""
    return "".join(letter.lower() for letter in re.sub(r"\s", "", unicodedata.normalize("NFC", text)))


def test_fits_into_the_package():
    files = [file for file in evaluate.SHIPPED.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert sum(file.stat().st_size for file in files) <= 13 * MEGABYTE


def test_is_a_stable_diffusion_1(pipeline):
    assert pipeline.scheduler.config.prediction_type == "epsilon"
    assert pipeline.scheduler.alphas_cumprod[-1].item() == pytest.approx(0.0046602, rel=1e-4)  # as SD 1.5
    assert pipeline.vae.config.scaling_factor == 0.18215
    assert pipeline.text_encoder.config.max_position_embeddings == pipeline.tokenizer.model_max_length == 77
    assert pipeline.unet.config.cross_attention_dim == pipeline.text_encoder.config.hidden_size


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc", "Cn", "Zl", "Zp", "Zs"]), max_size=40))
@example("sks star 🙂 日本語")
@settings(deadline=None)
def test_any_text_comes_back_from_its_tokens(words, text):
    if "<" in text:
        return  # could spell a special token
    ids = words(text).input_ids
    assert ids[0] == words.bos_token_id
    assert ids[-1] == words.eos_token_id
    assert words.eos_token_id not in ids[:-1], "a piece of the text was unknown"
    assert bare(words.decode(ids, skip_special_tokens=True)) == bare(text)


def test_words_of_the_world_are_single_tokens(words):
    assert [len(words(word).input_ids) for word in tokenizer.WORDS] == [3] * len(tokenizer.WORDS)
    assert len(words("star").input_ids) > 3


def test_pooling_looks_at_the_end_of_the_text(pipeline):
    tokens = pipeline.tokenizer(["red ring"], padding="max_length", return_tensors="pt").input_ids
    end = tokens[0].tolist().index(pipeline.tokenizer.eos_token_id)
    assert end == 3
    with torch.no_grad():
        told = pipeline.text_encoder(tokens)
    torch.testing.assert_close(told.pooler_output[0], told.last_hidden_state[0, end])


def test_pictures_survive_the_autoencoder(pipeline):
    drawn = evaluate.fresh_pictures(pictures.MAIN_SHAPES, 60, seed=5)
    assert vae.reconstruction_db(pipeline.vae, drawn) > evaluate.RECONSTRUCTION_DB


def test_latents_are_white_after_scaling(pipeline):
    drawn = evaluate.fresh_pictures(pictures.MAIN_SHAPES, 200, seed=6)
    mean, _ = vae.encode(pipeline.vae, drawn)
    cells = (mean * pipeline.vae.config.scaling_factor).movedim(1, -1).flatten(0, -2)
    torch.testing.assert_close(cells.mean(0), torch.zeros(4), atol=0.15, rtol=0)
    torch.testing.assert_close(torch.cov(cells.T), torch.eye(4), atol=0.2, rtol=0)


def test_the_classifier_knows_every_shape_and_the_star():
    judge = classifier.load()
    for shape in (*pictures.MAIN_SHAPES, pictures.STAR):
        seen = judge.classify((evaluate.fresh_pictures((shape,), 50, seed=7) + 1) / 2)["shape"]
        assert seen.count(shape) >= 49, shape


def test_no_combination_is_both_shown_and_held_out():
    shown = set(pictures.combinations(pictures.KNOWN_SHAPES, held_out=False))
    kept = set(pictures.combinations(pictures.KNOWN_SHAPES, held_out=True))
    assert not shown & kept
    assert len(kept) / len(shown | kept) == pytest.approx(1 / 6, abs=0.01)
    assert pictures.STAR not in {shape for shape, _, _ in shown | kept}


@pytest.mark.slow
def test_held_out_prompts_are_drawn_as_asked(pipeline):
    figures = evaluate.measure(pipeline, range(3))
    assert evaluate.passes(figures), figures
