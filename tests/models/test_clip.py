"""Chunks, clip skip and weights of captions, against the numbers of sd-scripts and diffusers' own encoding."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from loralab.models.load import build
from loralab.models.registry import USUAL
from loralab.models.text.clip import Clip
from loralab.models.text.emphasis import parse
from tests import GOLDEN
from tests.support.pipelines import pipeline_of

PROMPTS = [
    "",
    "sks star, red star, blue background",
    "A photo of a CAT, (best quality:1.2), 日本語, émoji 🎉, naïve café",
]
BEGIN, END = 49406, 49407


class KnownTokens:
    """A tokenizer that knows the tokens of a few texts, each a whole word."""

    bos_token_id, eos_token_id, pad_token_id = BEGIN, END, END

    def __init__(self, known: dict[str, list[int]]) -> None:
        self.known = known

    def __call__(self, text: str, **_) -> SimpleNamespace:
        return SimpleNamespace(input_ids=self.known[text])

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [f"{i}</w>" for i in ids]


@pytest.fixture(scope="module")
def numbers() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / "text_hidden.safetensors")


@pytest.fixture(scope="module")
def model(numbers):
    """The text encoder of the golden numbers; of its vocabulary, only the words used."""
    config = json.loads((GOLDEN / "reference_sd" / "text_encoder.json").read_text())
    state = load_file(GOLDEN / "reference_sd" / "text_encoder.safetensors")
    words = torch.zeros(config["vocab_size"], config["hidden_size"])
    words[numbers["token_embedding_rows.ids"]] = numbers["token_embedding_rows.weight"]
    state["text_model.embeddings.token_embedding.weight"] = words
    return build(USUAL, "text_encoder", config, state, torch.float32)


def content(ids: torch.Tensor) -> list[int]:
    return [i for i in ids.flatten().tolist() if i not in (BEGIN, END)]


@pytest.mark.parametrize("length", [77, 150, 225])
def test_chunks_and_states_are_those_of_sd_scripts(numbers, model, length: int):
    expected = numbers[f"len{length}.input_ids"]
    known = {prompt: content(ids) for prompt, ids in zip(PROMPTS, expected, strict=True)}
    for clip_skip, name in ((1, "clip_skipNone"), (2, "clip_skip2")):
        if f"len{length}.{name}" not in numbers:
            continue
        encoder = Clip(model, KnownTokens(known), chunks=length // 75, clip_skip=clip_skip)
        assert torch.equal(encoder.tokens(PROMPTS)[0], expected)
        torch.testing.assert_close(encoder(PROMPTS).hidden, numbers[f"len{length}.{name}"], atol=1e-5, rtol=1e-5)


def test_weights_are_those_of_sd_scripts(numbers, model):
    ids, weights = numbers["len150.weighted_input_ids"], numbers["len150.weights"]
    photo = content(ids[2])
    known = {PROMPTS[0]: [], PROMPTS[1]: content(ids[1])}
    pieces = parse(PROMPTS[2])
    assert [weight for _, weight in pieces] == [1.0, 1.2, 1.0]
    known |= dict(zip((text for text, _ in pieces), (photo[:6], photo[6:8], photo[8:]), strict=True))
    encoder = Clip(model, KnownTokens(known), chunks=2, clip_skip=2, emphasis=True)
    found, found_weights = encoder.tokens(PROMPTS)
    assert torch.equal(found, ids)
    torch.testing.assert_close(found_weights, weights)
    torch.testing.assert_close(encoder(PROMPTS).hidden, numbers["len150.weighted.clip_skip2"], atol=1e-5, rtol=1e-5)


def test_a_word_is_not_cut_between_chunks(random_family):
    """74 one-token words, then a word of five letters that would straddle the border."""
    plain = random_family.encoders["text_encoder"]
    encoder = Clip(plain.model, plain.tokenizer, chunks=2)
    caption = "sks " * 73 + "hello sks"
    ids = encoder.tokens([caption])[0][0]
    first, second = (encoder.tokenizer.convert_ids_to_tokens(chunk) for chunk in ids.tolist())
    assert first[:75] == ["<|startoftext|>", *["sks</w>"] * 73, "<|endoftext|>"]
    assert second[:8] == ["<|startoftext|>", "h", "e", "l", "l", "o</w>", "sks</w>", "<|endoftext|>"]
    assert encoder.fit(caption) == (2, 0)


def test_what_does_not_fit_is_counted(random_family):
    encoder = random_family.encoders["text_encoder"]
    assert encoder.fit("") == (1, 0)
    assert encoder.fit("sks " * 75) == (1, 0)
    assert encoder.fit("sks " * 80) == (1, 5)
    twice = Clip(encoder.model, encoder.tokenizer, chunks=2)
    assert twice.fit("sks " * 160) == (2, 10)
    long_word = "x" * 100  # longer than a chunk, so it is cut
    assert twice.fit(long_word) == (2, 0)
    assert twice.tokens([long_word])[0].shape == (1, 2, 77)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a (b:1.5) c", [("a ", 1.0), ("b", 1.5), (" c", 1.0)]),
        ("(a [b] c)", [("a ", 1.1), ("b", 1.0), (" c", 1.1)]),
        ("((a))", [("a", 1.21)]),
        ("(a:0.5", [("a:0.5", 1.1)]),
        (r"\(a\) \[b\] \\", [("(a) [b] \\", 1.0)]),
        ("a) b] c: d", [("a) b] c: d", 1.0)]),
        ("(a:b:2)", [("a:b", 2.0)]),
        ("", []),
    ],
)
def test_emphasis(caption: str, expected: list[tuple[str, float]]):
    assert [(text, pytest.approx(weight)) for text, weight in expected] == parse(caption)


def test_sdxl_texts_are_those_of_diffusers(random_base):
    """Two encoders side by side, second-last states without norm, pooled text of the second."""
    from loralab.models.families.sdxl import miniature as sdxl

    family = sdxl(str(random_base))
    captions = ["sks star on a hill", ""]
    ours = family.encode_text(captions)
    theirs = pipeline_of(family).encode_prompt(captions, device="cpu", do_classifier_free_guidance=False)
    torch.testing.assert_close(ours.hidden, theirs[0])
    torch.testing.assert_close(ours.pooled, theirs[2])


def test_sdxl_long_prompts_pool_the_first_chunk(random_base):
    from loralab.models.families.sdxl import miniature as sdxl

    short, long = sdxl(str(random_base)), sdxl(str(random_base), max_token_length=225)
    head, tail = "sks " * 75, "star " * 20
    assert long.encode_text([head + tail]).hidden.shape[1] == 227
    torch.testing.assert_close(long.encode_text([head + tail]).pooled, short.encode_text([head]).pooled)
