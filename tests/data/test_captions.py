"""Caption rules: sd-scripts' examples, the stated corrections, and caption files."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loralab.data.captions import Captions, mentioned, read_caption
from loralab.data.folders import Folder
from loralab.data.tags import by_folder, occurrences
from loralab.errors import UserError
from loralab.types import Item
from tests import GOLDEN

EXAMPLES = json.loads((GOLDEN / "captions.json").read_text())["examples"]
NAMES = {
    "caption_dropout_rate": "dropout_rate",
    "caption_dropout_every_n_epochs": "dropout_every_n_epochs",
    "caption_tag_dropout_rate": "tag_dropout_rate",
    "caption_prefix": "prefix",
    "caption_suffix": "suffix",
    "caption_separator": "separator",
    "shuffle_caption": "shuffle",
    "enable_wildcard": "wildcards",
    "token_warmup_step": "token_warmup_steps",
}
CORRECTED = {
    "masterpiece, sks star, red star, blue background, centered, vector art , best quality": (
        "masterpiece, sks star, red star, blue background, centered, vector art, best quality"
    ),
    "a, , b, ": "a, b",
}
TEXT = "sks star, red star, blue background, centered, vector art"


def apply(text=TEXT, seed=0, epoch=0, step=0, **options):
    return Captions(**options).apply(text, random.Random(seed), epoch, step)


@pytest.mark.parametrize(
    "example", [e for e in EXAMPLES if e["options"].get("epoch") != 0], ids=lambda e: e["note"].split(":")[0][:40]
)
def test_the_examples_of_sd_scripts(example):
    options = {NAMES.get(name, name): value for name, value in example["options"].items()}
    epoch, step = options.pop("epoch", 1) - 1, options.pop("step", 0)
    rng = random.Random(example["python_random_seed"])
    caption = Captions(**options).apply(example["input"], rng, epoch, step)
    assert caption == CORRECTED.get(example["output"], example["output"])
    assert rng.random() == example["next_random_after"], "the generator was used otherwise"


def test_dropout_rate():
    dropped = sum(apply(seed=seed, dropout_rate=0.3, prefix="p", trigger="x") == "" for seed in range(2000))
    assert 0.27 < dropped / 2000 < 0.33


def test_dropout_in_every_nth_epoch_counts_from_one():
    empty = [epoch + 1 for epoch in range(9) if apply(epoch=epoch, dropout_every_n_epochs=3) == ""]
    assert empty == [3, 6, 9]
    assert all(apply(epoch=epoch, dropout_every_n_epochs=0) for epoch in range(5))


def test_tag_dropout_leaves_out_each_tag_by_its_rate_but_no_kept_one():
    texts = [apply(seed=seed, tag_dropout_rate=0.4, keep_tokens=2) for seed in range(1000)]
    assert all(text.startswith("sks star, red star") for text in texts)
    for tag in ("blue background", "centered", "vector art"):
        assert 0.35 < sum(tag not in text for text in texts) / 1000 < 0.45


def test_shuffling_keeps_the_tags_and_changes_their_order():
    texts = {apply(seed=seed, shuffle=True, keep_tokens=1) for seed in range(200)}
    assert len(texts) == 24, "four free tags have 24 orders"
    assert all(text.startswith("sks star, ") for text in texts)
    assert {tuple(sorted(text.split(", "))) for text in texts} == {tuple(sorted(TEXT.split(", ")))}


@pytest.mark.parametrize(
    "options",
    [
        {"shuffle": True},
        {"tag_dropout_rate": 1.0},
        {"token_warmup_steps": 10, "token_warmup_min": 0},
        {"shuffle": True, "prefix": "masterpiece,"},
        {"shuffle": True, "keep_tokens_separator": "|||"},
        {"shuffle": True, "wildcards": True},
    ],
)
def test_kept_tokens_hold_in_every_path(options):
    for seed in range(20):
        caption = apply(",  , sks star, red star, a, b, c", seed, keep_tokens=2, **options)
        assert caption.removeprefix("masterpiece, ").startswith("sks star, red star"), caption


words = st.text(st.sampled_from("abcé 12"), min_size=1, max_size=6).map(str.strip).filter(bool)
rates = st.sampled_from([0.0, 0.3, 1.0])


@given(
    tags=st.lists(words, max_size=8),
    rules=st.builds(
        Captions, shuffle=st.booleans(), keep_tokens=st.integers(0, 4), tag_dropout_rate=rates, wildcards=st.booleans(),
        token_warmup_steps=st.sampled_from([0, 10]), token_warmup_min=st.integers(0, 3),
        trigger=st.none() | words, prefix=st.none() | words, suffix=st.none() | words,
    ),
    seed=st.integers(0, 99), step=st.integers(0, 12),
)  # fmt: skip
@settings(deadline=None)
def test_what_rules_keep_whatever_else_they_do(tags, rules, seed, step):
    """Kept tokens in front and in order, the trigger, affixes at their ends, no tag that was not there; and the same
    draw gives the same caption."""
    caption = rules.apply(", ".join(tags), random.Random(seed), step=step)
    assert caption == rules.apply(", ".join(tags), random.Random(seed), step=step)
    assert caption.startswith(rules.prefix or "")
    assert caption.endswith(rules.suffix or "")
    assert not rules.trigger or mentioned(rules.trigger, [caption])
    inner = rules.split(caption.removeprefix(rules.prefix or "").removesuffix(rules.suffix or ""))
    inner = inner[inner[:1] == [rules.trigger] and tags[:1] != [rules.trigger] :]
    if not rules.trigger:
        assert inner[: rules.keep_tokens] == tags[: rules.keep_tokens]
    assert not Counter(inner) - Counter([*tags, *filter(None, [rules.trigger])])
    if not rules.varies:
        assert [tag for tag in inner if tag in tags] == tags


def test_a_separator_marks_a_kept_head_and_tail():
    for seed in range(20):
        caption = apply("a, b ||| c, d, e ||| f", seed, keep_tokens_separator="|||", shuffle=True, tag_dropout_rate=0.5)
        assert caption.startswith("a, b")
        assert caption.endswith("f")
    assert apply("a ||| b", keep_tokens_separator="|||") == "a, b", "the marker is never seen by the text encoder"


@pytest.mark.parametrize(
    ("prefix", "suffix", "text", "expected"),
    [
        ("masterpiece", "best quality", "sks star, red", "masterpiece, sks star, red, best quality"),
        ("masterpiece, ", ", 4k", "sks star", "masterpiece, sks star, 4k"),
        ("a photo of", None, "sks star, red", "a photo of sks star, red"),
        ("photo", "in the rain", "a star", "photo a star in the rain"),
        ("masterpiece", None, "", "masterpiece"),
        ("a\nb", ",", "c, d", "a b, c, d"),
        ("1girl, |||", "||| best", "sks,red", "1girl, sks, red, best"),
    ],
)
def test_affixes_that_look_like_tags_are_joined_as_tags(prefix, suffix, text, expected):
    assert apply(text, prefix=prefix, suffix=suffix, keep_tokens_separator="|||") == expected


@pytest.mark.parametrize(
    ("separator", "prefix", "text", "expected"),
    [
        (" AND ", "GRAND", "Anna AND DOG", "GRAND, Anna AND DOG"),
        ("BREAK", "a DRAKE", "RED cat BREAK dog", "a DRAKE, RED cat BREAK dog"),
        (";", "first;", ";; a; b", "first, a; b"),
    ],
)
def test_a_separator_of_several_letters_is_cut_as_a_whole(separator, prefix, text, expected):
    assert apply(text, prefix=prefix, separator=separator) == expected


def test_affixes_stay_at_their_ends_while_tags_are_shuffled():
    for seed in range(20):
        caption = apply(seed=seed, shuffle=True, prefix="first", suffix="last")
        assert caption.startswith("first, ")
        assert caption.endswith(", last")


def test_the_trigger_word_is_in_every_caption_once():
    assert apply("a, b", trigger="sks") == "sks, a, b"
    assert apply("a photo of sks, b", trigger="sks") == "a photo of sks, b"
    assert apply("sksy", trigger="sks") == "sks, sksy"
    for seed in range(20):
        caption = apply("a, sks, b", seed, trigger="sks", shuffle=True, tag_dropout_rate=0.9)
        assert caption.startswith("sks")
        assert caption.count("sks") == 1


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("a photo of sks, red", {}, "a photo of sks, red"),
        ("red, a photo of sks", {"tag_dropout_rate": 1.0}, "a photo of sks"),
        ("red, sks star, woman", {"tag_dropout_rate": 1.0, "trigger": "sks star, woman"}, "sks star, woman"),
        ("red, woman", {"trigger": "sks star, woman"}, "sks star, woman, red"),
        ("a woman in red", {"trigger": "sks star, woman"}, "sks star, a woman in red"),
        ("red", {"prefix": "sks,", "shuffle": True}, "sks, red"),
        ("red", {"prefix": "sks"}, "sks, red"),
    ],
)
def test_the_trigger_is_added_where_it_is_absent_only(text, options, expected):
    assert apply(text, **{"trigger": "sks", "token_warmup_steps": 1, "token_warmup_min": 99, **options}) == expected


def test_wildcards_in_affixes_and_odd_braces():
    drawn = {apply("a", seed, prefix="{photo|picture} of", suffix="{{x}}", wildcards=True) for seed in range(50)}
    assert drawn == {"photo of a {x}", "picture of a {x}"}
    assert apply("a\ue000b {c", wildcards=True) == "a\ue000b {c"
    assert apply("{a|b} {a|" * 9, wildcards=True).endswith(" {a|")


def test_wildcards_and_lines():
    drawn = {apply("a {red|green} {star|moon}\nb {{x}}", seed, wildcards=True) for seed in range(100)}
    assert drawn == {"a red star", "a red moon", "a green star", "a green moon", "b {x}"}
    assert apply("one {a|b}\ntwo") == "one {a|b}"


def test_rules_without_chance():
    rules = Captions(shuffle=True, dropout_rate=0.5, tag_dropout_rate=0.5, keep_tokens=1, prefix="p", trigger="t")
    assert rules.varies
    assert rules.may_be_empty
    assert not rules.fixed().varies
    assert not rules.fixed().may_be_empty
    assert rules.fixed().apply(TEXT, random.Random(0)) == f"p, t, {TEXT}"


@pytest.mark.parametrize("extension", ["txt", ".txt"])
def test_the_extension_may_lack_its_dot(extension):
    assert Captions(extension=extension).suffix_of_files == ".txt"


@pytest.mark.parametrize("raw", ["ein Stern, grün\n", "\ufeffein Stern, grün", "  ein Stern, grün \r\n\r\n"])
def test_caption_files_in_utf8(tmp_path, raw):
    (tmp_path / "a b.txt").write_bytes(raw.encode())
    assert read_caption(tmp_path / "a b.txt") == "ein Stern, grün"


def test_lines_of_caption_files(tmp_path):
    (tmp_path / "a.txt").write_text(" one \n\n two\n")
    assert read_caption(tmp_path / "a.txt") == "one\ntwo"
    (tmp_path / "a.txt").write_text("")
    assert read_caption(tmp_path / "a.txt") == ""
    (tmp_path / "a.txt").write_bytes("a cat\u2028on\x0ba mat\rtwo\r\n".encode())
    assert read_caption(tmp_path / "a.txt") == "a cat\u2028on\x0ba mat\ntwo"


@pytest.mark.parametrize(
    "raw", ["grün".encode("latin-1"), "grün".encode("utf-16"), b"a\0b", b"x" * 5_000_000, bytes(range(256))]
)
def test_what_is_no_caption_file_is_named(tmp_path, raw):
    (tmp_path / "a.txt").write_bytes(raw)
    with pytest.raises(UserError) as error:
        read_caption(tmp_path / "a.txt")
    assert str(tmp_path / "a.txt") in str(error.value)


def test_tag_occurrence_counts_repeats():
    items = [
        Item("/d/10_sks/a.png", 1, 1, "sks, red, , red", repeats=10),
        Item("/d/2_x/b.png", 1, 1, "red ||| moon\nsecond line", repeats=2),
    ]
    folders = [Folder("/d", captions=Captions(keep_tokens_separator="|||"))]
    assert occurrences(items, folders) == {"sks": 10, "red": 22, "moon": 2}
    assert by_folder(items, folders) == {"10_sks": {"sks": 1, "red": 2}, "2_x": {"red": 1, "moon": 1}}
