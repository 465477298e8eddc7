"""Adapter files that nobody meant to write: read, or a mistake in words; no traceback, nothing the terminal obeys."""

from __future__ import annotations

import json
import struct
from argparse import ArgumentParser
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from unicodedata import category

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from loralab.adapters import file
from loralab.errors import UserError
from loralab.tools import convert, inspect, resize
from tests import GOLDEN

NAME = "lora_unet_mid_block_attentions_0_proj_in"
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

odd_text = st.text(st.one_of(st.sampled_from("\x1b\x9b\x07\r\n[]\u202e\ud800.:/ aé"), st.characters()), max_size=12)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-3, 1 << 70), st.floats(), odd_text)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3)
)
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 32]), max_size=4).map(tuple)
kinds = ["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "nothing"]
sizes = {"F64": 8, "I64": 8, "C64": 8, "F32": 4, "F16": 2, "BF16": 2}
endings = [
    *("lora_down.weight", "lora_up.weight", "lora_mid.weight", "alpha", "dora_scale", "oft_blocks", "diff", ""),
    *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "lokr_w1", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
]
keys = st.one_of(
    st.sampled_from([f"{NAME}.{ending}" for ending in endings]),
    st.sampled_from(
        ["unet.mid_block.attentions.0.proj_in.lora_A.weight", "bundle_emb.x.emb_params", "lora_te_x.alpha"]
    ),
    odd_text,
)
fills = st.sampled_from([b"\0", b"\x3c", b"\xff", b"\x7b"])


@st.composite
def whole_files(draw) -> bytes:
    """A well-formed file of tensors of odd names, types, shapes and values."""
    header, data = {}, b""
    for key in draw(st.lists(keys, max_size=6, unique=True)):
        dtype, shape = draw(st.sampled_from(kinds)), draw(shapes)
        length = sizes.get(dtype, 1) * int(torch.Size(shape).numel())
        header[key] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + length]}
        data += draw(fills) * length
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(odd_text, odd_text, max_size=3))
    return packed(header, data)


@st.composite
def odd_headers(draw) -> bytes:
    """A file whose header is JSON of any form."""
    entry = st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets"]), anything, max_size=3)
    header = draw(st.one_of(anything, st.dictionaries(keys | st.just("__metadata__"), entry | anything, max_size=4)))
    return packed(header, b"\0" * draw(st.integers(0, 64)))


def packed(header, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def run(tool, *arguments) -> str:
    """What a tool says; a UserError counts as something said, anything else is a bug."""
    parser, said = ArgumentParser(), StringIO()
    tool.add_arguments(parser)
    with redirect_stdout(said), redirect_stderr(said):
        try:
            tool.main(parser.parse_args([str(argument) for argument in arguments]))
        except UserError as error:
            said.write(str(error))
    return said.getvalue()


def harmless(text: str) -> bool:
    """Nothing in it that a terminal obeys, or that cannot be printed."""
    return all(letter.isprintable() or letter == "\n" or category(letter) == "Zs" for letter in text)


def tried(content: bytes, folder: Path) -> None:
    path = folder / "a.safetensors"
    path.write_bytes(content)
    for tool, arguments in (
        (inspect, ()),
        (convert, ("-o", folder / "b.pt")),
        (resize, ("--rank", 1, "-o", folder / "c.pt")),
    ):
        more = ("--overwrite",) if arguments else ()
        assert harmless(run(tool, path, *arguments, *more))


@quick
@given(whole_files())
def test_tensors_of_any_form(tmp_path_factory, content):
    tried(content, tmp_path_factory.getbasetemp())


entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@quick
@given(odd_headers())
@example(packed({"__metadata__": None, f"{NAME}.alpha": entry}, b"\0" * 4))
@example(packed({f"{NAME}.alpha": entry | {"data_offsets": [0]}}, b"\0" * 4))
@example(packed({f"{NAME}.alpha": entry | {"data_offsets": []}}, b"\0" * 4))
@example(struct.pack("<Q", 200_000) + b'{"a":' + b"[" * 199_995)
@example(packed({"__metadata__": {"a": {"b": 1}}, f"{NAME}.alpha": entry}, b"\0" * 4))
def test_headers_of_any_form(tmp_path_factory, content):
    tried(content, tmp_path_factory.getbasetemp())


@quick
@given(anything, st.booleans())
def test_configurations_of_any_form(tmp_path_factory, told, in_header):
    """PEFT's, with any values under the keys that count."""
    folder = tmp_path_factory.getbasetemp()
    path = "mid_block.attentions.0.proj_in.lora_"
    data, header = struct.pack("<64f", *range(64)), {}
    for letter, shape, at in (("A", [1, 32], 0), ("B", [32, 1], 128)):
        header[f"base_model.model.{path}{letter}.weight"] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [at, at + 128],
        }
    values = told if isinstance(told, dict) else dict.fromkeys(("lora_alpha", "r", "alpha_pattern", "peft_type"), told)
    text = json.dumps(values)
    (folder / "adapter_config.json").write_text("{}" if in_header else text)
    if in_header:
        header = {key.removeprefix("base_model.model."): value for key, value in header.items()}
        header["__metadata__"] = {"lora_adapter_metadata": text}
    tried(packed(header, data), folder)


# single mistakes, and the right word for each


def written(tmp_path: Path, **changes) -> Path:
    """The golden adapter with other tensors at a module."""
    from safetensors.torch import save_file

    state = load_file(GOLDEN / "lora.safetensors")
    save_file(
        state | {f"{NAME}.{key.replace('_weight', '.weight')}": t for key, t in changes.items()},
        tmp_path / "a.safetensors",
    )
    return tmp_path / "a.safetensors"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"alpha": torch.tensor(1e30)}, ("1e+30", f"{NAME}.alpha")),
        ({"alpha": torch.tensor(-1e30)}, ("1e+30", f"{NAME}.alpha")),
        ({"alpha": torch.tensor(float("nan"))}, ("not finite", f"{NAME}.alpha")),
        ({"alpha": torch.tensor(float("inf"))}, ("not finite", f"{NAME}.alpha")),
        ({"lora_down_weight": torch.tensor(1.0)}, ("incompatible shapes", f"{NAME}.lora_down.weight")),
        ({"lora_up_weight": torch.ones(3)}, ("incompatible shapes", f"{NAME}.lora_up.weight")),
        ({"dora_scale": torch.ones(5, 1)}, ("incompatible shapes", f"{NAME}.dora_scale")),
        ({"dora_scale": torch.tensor(float("inf"))}, ("not finite", f"{NAME}.dora_scale")),
        ({"lora_up_weight": torch.ones(8, 8, dtype=torch.int8)}, ("floating", f"{NAME}.lora_up.weight")),
        ({"oft_blocks": torch.ones(2, 2)}, ("incomplete", f"{NAME}.oft_blocks")),
        ({"diff": torch.ones(2, 2)}, ("LyCORIS full", f"{NAME}.diff")),
    ],
)
def test_what_is_wrong_is_said_with_its_key(changes, words, tmp_path):
    """By what uses the file and by inspect, which shows the rest."""
    path = written(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        file.load(path)
    told = json.loads(run(inspect, path, "--json"))
    assert all(word in str(error.value) and word in " ".join(told["problems"]) for word in words)
    assert told["kinds"]["LoRA"] == 101


def test_a_module_that_is_not_known(tmp_path):
    from safetensors.torch import save_file

    state = load_file(written(tmp_path)) | {"lora_unet_\x1b[31mwhat.lora_down.weight": torch.ones(2, 2)}
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(UserError, match="no module of this model"):
        file.load(tmp_path / "b.safetensors")
    said = run(inspect, tmp_path / "b.safetensors")
    assert "no module of this model" in said
    assert "LoRA adapter" in said
    assert "\x1b" not in said


def test_what_changes_no_module_is_left_out(tmp_path):
    """An embedding in the file, and an alpha without its tensors."""
    from safetensors.torch import save_file

    state = load_file(written(tmp_path))
    other = {"bundle_emb.\x1b]0;word.emb_params": torch.ones(2, 8), "bundle_emb.b.string_to_param.*": torch.ones(2)}
    other["lora_unet_down_blocks_0_resnets_0_conv1.alpha"] = torch.tensor(1.0)
    save_file(state | other, tmp_path / "b.safetensors")
    said = run(convert, tmp_path / "b.safetensors", "-o", tmp_path / "c.safetensors")
    assert "word" in said
    assert "the embedding b ignored" in said
    assert "resnets_0_conv1.alpha" in said
    assert harmless(said)
    assert load_file(tmp_path / "c.safetensors").keys() == state.keys()


def test_singular_values_that_cannot_be_had(tmp_path):
    large = {"lora_up_weight": torch.full((32, 8), 1e25), "lora_down_weight": torch.full((8, 32, 1, 1), 1e25)}
    said = run(resize, written(tmp_path, **large), "--rank", 1, "-o", tmp_path / "out.safetensors")
    assert NAME in said
    assert "too large" in said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda plain: plain.to_sparse(), "is sparse", id="sparse"),
        pytest.param(lambda plain: plain.to_sparse_csr(), "is sparse", id="compressed rows"),
        pytest.param(lambda plain: plain.to("meta"), "without values", id="shapes alone"),
        pytest.param(lambda _: torch.ones(1).expand(10**6, 10**6), "larger than what is stored", id="terabytes"),
        pytest.param(lambda _: torch.ones(8, 1).expand(8, 1 << 40), "larger than what is stored", id="one column"),
    ],
)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_tensors_that_only_a_pickle_can_hold(make, words, tmp_path):
    torch.save({f"{NAME}.lora_down.weight": make(torch.ones(2, 8))}, tmp_path / "a.pt")
    for tool, *arguments in ((inspect,), (convert, "-o", tmp_path / "b.pt")):
        said = run(tool, tmp_path / "a.pt", *arguments)
        assert words in said
        assert NAME in said


def test_trained_parameters_and_old_pickles_are_read_without_warnings(tmp_path):
    """As `torch.save(module.state_dict(keep_vars=True))` leaves them, and in the form from before torch 1.6."""
    state = {key: torch.nn.Parameter(tensor) for key, tensor in load_file(written(tmp_path)).items()}
    torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    assert not any(tensor.requires_grad for tensor in file.load(tmp_path / "a.pt").state.values())
