"""The embedded flow model: small, a Z-Image in all its parts, and as good as docs/tiny-model.md says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loralab.models.families import zimage
from loralab.models.text.language import SPECIAL
from loralab.run import instantiate
from loralab.schema.compose import compose
from scripts.tiny_model import evaluate, tokenizer

MEGABYTE = 1_000_000
PROMPTS = ["sks star, red, blue background", "", "a white moon on a black background"]


@pytest.fixture(scope="module")
def pipeline():
    return evaluate.load(evaluate.SHIPPED_FLOW)


@pytest.fixture(scope="module")
def family():
    """As the command loads it."""
    return instantiate(compose(["model=tiny_flow"]).tree["model"])


def test_fits_into_the_package():
    files = [file for file in evaluate.SHIPPED_FLOW.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".jinja", ".safetensors"}
    assert not any(file.is_symlink() for file in files)
    assert sum(file.stat().st_size for file in files) <= 10 * MEGABYTE


def test_words_of_the_world_are_single_tokens(pipeline):
    words = pipeline.tokenizer
    for word in (*tokenizer.WORDS, *tokenizer.ROLES):
        assert len(words(word).input_ids) == len(words(f" {word}").input_ids) == 1, word
    assert len(words("star").input_ids) == 4
    assert pipeline.text_encoder.config.vocab_size == len(words)


@given(st.text(max_size=40))
@example("sks star 🙂 日本語")
@settings(deadline=None)
def test_any_text_comes_back_from_its_tokens(pipeline, text):
    if any(name in text for name in SPECIAL):
        return
    assert pipeline.tokenizer.decode(pipeline.tokenizer(text).input_ids) == text


def test_captions_are_read_as_by_diffusers(pipeline, family):
    theirs, _ = pipeline.encode_prompt(list(PROMPTS), do_classifier_free_guidance=False)
    for one, other in zip(family.encode_text(PROMPTS).by_caption(), theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_it_has_the_autoencoder_of_the_other_one(family):
    assert family.vae.config.scaling_factor == 0.18215
    assert family.latent_shape(80, 48) == (4, 10, 6)
    assert family.process.prediction == "flow"
    assert family.scheduler().config.shift == compose(["model=tiny_flow"]).tree["objective"]["timesteps"]["shift"]
    assert isinstance(family, zimage.model.ZImage)


@pytest.mark.slow
def test_held_out_prompts_are_drawn_as_asked(pipeline):
    figures = evaluate.measure(pipeline, range(3))
    assert evaluate.passes(figures), figures
