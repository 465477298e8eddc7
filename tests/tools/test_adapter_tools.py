"""The tools on adapter files, by numbers."""

from __future__ import annotations

import json
import shutil
import struct
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from loralab.adapters import file
from loralab.adapters.boft import BOFT
from loralab.adapters.dora import DoRA
from loralab.adapters.ia3 import IA3
from loralab.adapters.inject import inject
from loralab.adapters.loha import LoHa
from loralab.adapters.lokr import LoKr
from loralab.adapters.lora import LoRA
from loralab.adapters.oft import OFT
from loralab.adapters.oft_v2 import OFTv2
from loralab.adapters.targets import Targets
from loralab.errors import UserError
from loralab.models.families import sdxl
from loralab.models.families.sd import load
from loralab.tools import convert, extract, inspect, merge, resize
from tests import GOLDEN
from tests.support.adapters import grouped, merged
from tests.support.single_files import original_state, save_single_file
from tests.support.tools import answer, run

METHODS = {
    "lora": LoRA(rank=4, alpha=2.0, conv_rank=3),
    "dora": DoRA(rank=4, alpha=2.0),
    "dora_of_inputs": DoRA(rank=4, alpha=2.0, magnitude="input"),
    "loha": LoHa(rank=2, alpha=1.0, conv_rank=2),
    "lokr": LoKr(rank=2, alpha=1.0, conv_rank=2),
}
MULTIPLIED = {
    "oft": OFT(rank=4, conv_rank=4, rescaled=True),
    "boft": BOFT(rank=4),
    "oft_v2": OFTv2(rank=4, conv_rank=4),
    "ia3": IA3(conv_rank=1),
}
ALL = METHODS | MULTIPLIED


@pytest.fixture(scope="module")
def files(random_base, tmp_path_factory):
    """A file of each kind for the random base, as after training."""
    folder = tmp_path_factory.mktemp("adapters")
    family = load(str(random_base), resolution=64)
    for seed, (name, method) in enumerate(ALL.items()):
        adapters = inject(family, method, Targets(), seed)
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in adapters.parameters():
                parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
        file.save(folder / f"{name}.safetensors", adapters.state(), {"ss_network_dim": "4"}, "fp32")
        adapters.remove()
    return folder


def predict(base: Path, *weights: Path) -> torch.Tensor:
    """What a base says, with adapters attached one over the other."""
    family = load(str(base), attention="eager", resolution=64)
    for path in weights:
        inject(family, ALL[path.stem].__class__(rank=2, weights=str(path)), Targets()).eval()
    return answer(family)


def changes(path: Path) -> dict[str, torch.Tensor]:
    groups = grouped(file.load(path).state)
    return {name: (g.kind.delta(g.tensors) * g.scale).flatten(1) for name, g in groups.items()}


def close(a, b, tolerance=2e-5):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", ALL)
def test_merged_into_a_folder_is_the_forward(name, files, random_base, tmp_path):
    run(merge, files / f"{name}.safetensors", "--base", random_base, "-o", tmp_path / "merged")
    close(predict(tmp_path / "merged"), predict(random_base, files / f"{name}.safetensors"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["merged"]
    for part in ("vae", "tokenizer", "scheduler"):  # untouched
        for path in (random_base / part).iterdir():
            assert (tmp_path / "merged" / part / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_merged_into_a_single_file(kind, reference_base, random_base, tmp_path):
    """In the original layout, its names and open_clip's joined matrices included; what is not adapted stays."""
    if kind == "sd1":
        family = load(str(reference_base), resolution=64)
        targets = Targets(conv=True)
    else:  # the miniature's UNet has fewer blocks, which the original names of its file don't tell
        family = sdxl.miniature(str(random_base / "tokenizer"))
        targets = Targets(unet=False)
    save_single_file(family, tmp_path / "base.safetensors", torch.float32)
    adapters = inject(family, LoRA(rank=2), targets)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    file.save(tmp_path / "lora.safetensors", adapters.state(), {}, "fp32")
    run(
        merge,
        tmp_path / "lora.safetensors",
        "--base",
        tmp_path / "base.safetensors",
        "-o",
        tmp_path / "out.safetensors",
    )
    before, after = load_file(tmp_path / "base.safetensors"), load_file(tmp_path / "out.safetensors")
    with merged(adapters):
        expected = {key: tensor.clone() for key, tensor in original_state(family)}
    assert after.keys() == before.keys()
    assert all(torch.equal(before[key], after[key]) for key in before if key.startswith("first_stage_model"))
    assert sum(not torch.equal(before[key], after[key]) for key in before) > 20
    for key, tensor in expected.items():
        close(after[key], tensor, 1e-6)


def test_two_with_weights_into_a_base(files, random_base, tmp_path):
    both = [files / "lora.safetensors", files / "loha.safetensors"]
    run(merge, *both, "--weights", 0.5, -2, "--base", random_base, "-o", tmp_path / "merged")
    before = load_file(next((random_base / "unet").glob("*.safetensors")))
    after = load_file(tmp_path / "merged" / "unet" / "diffusion_pytorch_model.safetensors")
    first, second = map(changes, both)
    name = "mid_block.resnets.0.conv1"
    flat = "lora_unet_" + name.replace(".", "_")
    difference = (after[f"{name}.weight"] - before[f"{name}.weight"]).flatten(1)
    close(difference, 0.5 * first[flat] - 2 * second[flat], 1e-5)


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_several_into_one_exactly(layout, files, random_base, tmp_path):
    run(convert, files / "lora.safetensors", "--layout", layout, "-o", tmp_path / "other.safetensors")
    one, other = files / "lora.safetensors", tmp_path / "other.safetensors"
    run(merge, one, other, "--weights", 0.25, 0.5, "-o", tmp_path / "sum.safetensors")
    single, together = changes(one), changes(tmp_path / "sum.safetensors")
    assert single.keys() == together.keys()
    for name in single:
        close(together[name], 0.75 * single[name], 1e-5)
    ranks = {group.rank for group in grouped(file.load(tmp_path / "sum.safetensors").state).values()}
    assert ranks == {6, 8}


def test_different_kinds_into_one_of_full_rank(files, random_base, tmp_path):
    three = [files / f"{name}.safetensors" for name in ("lora", "loha", "lokr")]
    run(merge, *three, "--rank", 64, "-o", tmp_path / "sum.safetensors")
    parts, together = list(map(changes, three)), changes(tmp_path / "sum.safetensors")
    for name in together:
        close(together[name], sum(part[name] for part in parts if name in part), 1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_resize_to_full_rank_is_the_identity(name, files, random_base, tmp_path):
    (tmp_path / "new").mkdir()
    path = tmp_path / "new" / f"{name if name.startswith('dora') else 'lora'}.safetensors"
    run(resize, files / f"{name}.safetensors", "--rank", 1000, "-o", path)
    close(predict(random_base, path), predict(random_base, files / f"{name}.safetensors"), 1e-4)


@pytest.mark.parametrize("name", ["lora", "loha"])
def test_resize_is_the_best_of_its_rank(name, files, tmp_path):
    source = files / f"{name}.safetensors"
    run(resize, source, "--rank", 2, "-o", tmp_path / "two.safetensors")
    run(resize, source, "--keep", 0.9, "-o", tmp_path / "most.safetensors")
    whole, two, most = map(changes, (source, tmp_path / "two.safetensors", tmp_path / "most.safetensors"))
    for layer, delta in whole.items():
        singular = torch.linalg.svdvals(delta)
        close((delta - two[layer]).norm(), singular[2:].norm(), 1e-4)
        assert most[layer].norm() >= 0.9 * delta.norm() * (1 - 1e-4)
        rank = torch.linalg.matrix_rank(most[layer], rtol=1e-4)
        assert rank == 1 or singular[: rank - 1].norm() < 0.9 * delta.norm()
    told = file.read_metadata(tmp_path / "two.safetensors")
    assert (told["ss_network_dim"], told["ss_network_module"]) == ("2", "networks.lora")


def test_extract_gives_back_what_was_merged(files, random_base, tmp_path):
    run(merge, files / "lora.safetensors", "--base", random_base, "-o", tmp_path / "tuned")
    path = tmp_path / "found.safetensors"
    run(extract, random_base, tmp_path / "tuned", "--rank", 4, "--conv", "--precision", "fp32", "-o", path)
    known, found = changes(files / "lora.safetensors"), changes(path)
    assert known.keys() == found.keys()
    for name in known:
        close(found[name], known[name], 1e-5)
    run(extract, random_base, tmp_path / "tuned", "--keep", 0.999, "-o", tmp_path / "linear.safetensors")
    ranks = {group.rank for group in grouped(file.load(tmp_path / "linear.safetensors").state).values()}
    assert max(ranks) <= 4  # the known rank, told by the norm
    half = ["--base", random_base, "--precision", "fp16", "-o", tmp_path / "half"]
    run(merge, files / "lora.safetensors", "--weights", 0, *half)
    for other in (random_base, tmp_path / "half"):  # rounded to halves is no difference
        with pytest.raises(UserError, match="does not differ"):
            run(extract, random_base, other, "--rank", 4, "-o", tmp_path / "nothing.safetensors")


@pytest.mark.parametrize(
    ("ours", "theirs"), [("fp32", "bf16"), ("fp16", "bf16"), ("bf16", "fp16"), ("fp16", "widened")]
)
def test_rounding_is_not_extracted(ours, theirs, random_base, tmp_path):
    """Nor that of weights which were rounded once and are stored in more bits now."""

    def rounded(name: str) -> Path:
        folder = tmp_path / name
        shutil.copytree(random_base, folder)
        for path in (*folder.glob("unet/*.safetensors"), *folder.glob("text_encoder/*.safetensors")):
            state = load_file(path)
            dtype = torch.bfloat16 if name == "widened" else file.DTYPES[name]
            state = {key: t.to(dtype) if t.is_floating_point() else t for key, t in state.items()}
            widened = {key: t.float() if t.is_floating_point() else t for key, t in state.items()}
            save_file(widened if name == "widened" else state, path)
        return folder

    base, other = rounded(ours), rounded(theirs)
    with pytest.raises(UserError, match="does not differ"):
        run(extract, base, other, "--rank", 4, "--conv", "-o", tmp_path / "out.safetensors")
    path = next(other.glob("unet/*.safetensors"))
    state = load_file(path)
    key = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    state[key] = (state[key].float() + 0.5).to(state[key])
    save_file(state, path)
    run(extract, base, other, "--rank", 1, "-o", tmp_path / "out.safetensors")
    found = changes(tmp_path / "out.safetensors")
    assert list(found) == ["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"]
    (change,) = found.values()
    close(change.float(), torch.full_like(change.float(), 0.5), 5e-3)


def test_convert_there_and_back(files, tmp_path):
    source = files / "lora.safetensors"
    run(convert, source, "--layout", "diffusers", "-o", tmp_path / "a.bin")
    run(convert, tmp_path / "a.bin", "--precision", "bf16", "-o", tmp_path / "b.safetensors")
    first, last = changes(source), changes(tmp_path / "b.safetensors")
    for name in first:
        close(last[name].float(), first[name], 2e-2)
    assert {t.dtype for t in load_file(tmp_path / "b.safetensors").values()} == {torch.bfloat16}


MODULES = ["lora_unet_mid_block_attentions_0_proj_in", "lora_unet_mid_block_resnets_0_conv1"]
MODULES += ["lora_te_text_model_encoder_layers_3_mlp_fc1", "lora_unet_up_blocks_1_attentions_0_proj_out"]
alphas = st.none() | st.sampled_from([0.3, 1.0, 4.0]) | st.floats(2**-10, 1024, width=32)


@given(
    modules=st.dictionaries(st.sampled_from(MODULES), st.tuples(st.integers(1, 4), alphas), min_size=1),
    magnitudes=st.booleans(), size=st.sampled_from([1.0, 1e-3]), precision=st.sampled_from(["fp16", "bf16", "fp32"]),
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_diffusers_and_back_is_the_same_file(modules, magnitudes, size, precision):
    """Whatever scale diffusers' layout has in its weights, small numbers of a half included; in fp32, which has nothing
    wider beside it, all but the last bit."""
    draw, state = torch.Generator().manual_seed(0), {}
    for name, (rank, alpha) in modules.items():
        spatial = (3, 3) if "conv" in name else ()
        state[f"{name}.lora_down.weight"] = torch.randn(rank, 6, *spatial, generator=draw)
        state[f"{name}.lora_up.weight"] = size * torch.randn(5, rank, *(1 for _ in spatial), generator=draw)
        if alpha is not None:
            state[f"{name}.alpha"] = torch.tensor(alpha)
        if magnitudes:
            state[f"{name}.dora_scale"] = torch.rand(5, 1, *(1 for _ in spatial), generator=draw)
    with TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.safetensors" for name in ("source", "diffusers", "back")]
        file.save(paths[0], state, {"ss_seed": "1"}, precision)
        run(convert, paths[0], "--layout", "diffusers", "-o", paths[1])
        run(convert, paths[1], "-o", paths[2])
        assert not any("alpha" in key for key in load_file(paths[1]))
        source, other = changes(paths[0]), changes(paths[1])
        for name in source:
            close(other[name].float(), source[name].float(), 1e-5 * source[name].abs().max().item())
        if precision != "fp32":
            assert paths[2].read_bytes() == paths[0].read_bytes()
        else:
            torch.testing.assert_close(load_file(paths[2]), state, rtol=2e-7, atol=0)


def test_nothing_is_overwritten(files, random_base, tmp_path):
    source = files / "lora.safetensors"
    run(convert, source, "-o", tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    for tool, arguments in (
        (convert, [source]),
        (resize, [source, "--rank", 2]),
        (merge, [source, source]),
        (merge, [source, "--base", random_base]),
        (extract, [random_base, random_base, "--rank", 1]),
    ):
        with pytest.raises(UserError, match="already exists"):
            run(tool, *arguments, "-o", tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == before
    run(convert, source, "--precision", "fp16", "--overwrite", "-o", tmp_path / "a.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() != before


def test_mistakes(files, random_base, tmp_path):
    lora, loha, dora = (files / f"{name}.safetensors" for name in ("lora", "loha", "dora"))
    out = ["-o", tmp_path / "a.safetensors"]
    for tool, arguments, words in (
        (merge, [lora, *out], "second adapter"),
        (merge, [lora, loha, *out], "--rank"),
        (merge, [lora, dora, *out, "--rank", 4], "--base"),
        (merge, [lora, loha, *out, "--weights", 1], "one for each"),
        (merge, [lora, "--base", tmp_path / "nothing", *out], "not found"),
        (resize, [lora, *out], "--rank is missing"),
        (resize, [files / "oft.safetensors", "--rank", 4, *out], "depends on the base model"),
        (merge, [lora, files / "ia3.safetensors", "--rank", 4, *out], "--base"),
        (convert, [lora, "-o", tmp_path / "a.txt"], "extension"),
        (convert, [loha, "--layout", "diffusers", *out], "LoHa"),
        (inspect, [tmp_path], "is a folder"),
        (inspect, [random_base / "unet" / "diffusion_pytorch_model.safetensors"], "one component"),
        (extract, [random_base, tmp_path / "nothing", "--rank", 1, *out], "TUNED"),
        (extract, [lora, random_base, "--rank", 1, *out], "BASE"),
    ):
        with pytest.raises(UserError) as error:
            run(tool, *arguments)
        assert words in str(error.value).replace(":", ""), error.value
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--rank=0", "whole number"),
        ("--rank=four", "whole number"),
        ("--keep=1.5", "at most 1"),
        ("--device=gpu9", "not available"),
    ],
)
def test_options_of_the_wrong_kind(option, words, capsys):
    with pytest.raises(SystemExit) as stop:
        run(resize, "a.safetensors", option, "-o", "b.safetensors")
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


def report(path: Path, capsys) -> dict:
    capsys.readouterr()
    run(inspect, path, "--json")
    return json.loads(capsys.readouterr().out)


def test_inspect(files, tmp_path, capsys):
    golden = GOLDEN / "lora.safetensors"
    told = report(golden, capsys)
    assert (told["content"], told["layout"], told["format"]) == ("adapter", "kohya", "safetensors")
    assert (told["kinds"], told["ranks"], told["alphas"]) == ({"LoRA": 102}, {"8": 102}, {"4": 102})
    assert told["metadata"]["ss_network_module"] == "networks.lora"
    deltas = changes(golden)
    down = [delta.norm().item() for name, delta in deltas.items() if name.startswith("lora_unet_down_blocks_0")]
    block = told["blocks"]["unet down 0"]
    assert block["layers"] == len(down)
    assert block["mean"] == pytest.approx(sum(down) / len(down), rel=1e-4)
    assert block["largest"] == pytest.approx(max(down), rel=1e-4)
    assert told["problems"] == []
    run(inspect, golden)
    assert "LoRA adapter" in (printed := capsys.readouterr().out)
    assert "unet down 0" in printed
    for name in ("dora", "loha", "lokr", *MULTIPLIED):
        told = report(files / f"{name}.safetensors", capsys)
        assert (list(told["kinds"]), told["problems"]) == ([ALL[name].__class__.__name__], [])
        assert bool(told["alphas"]) == (name not in MULTIPLIED)
    state = load_file(golden)
    key = "lora_unet_mid_block_attentions_0_proj_in.lora_{}.weight"
    state[key.format("down")][0, 0] = float("nan")
    state[key.replace("proj_in", "proj_out").format("up")].zero_()
    torch.save(state, tmp_path / "odd.safetensors")  # told by its content
    told = report(tmp_path / "odd.safetensors", capsys)
    assert told["format"] == "pickle"
    assert ["not finite" in told["problems"][0], "zero" in told["problems"][1]] == [True, True]


def test_inspect_opens_with_a_summary(capsys):
    """Of the demo's own adapter, as it is; of one with the metadata of a training."""
    demo = GOLDEN / "bundle_emb.safetensors"
    told = report(demo, capsys)
    assert (told["family"], told["layout"], told["kinds"]) == ("tiny", "kohya", {"LoRA": 96})
    assert "mytoken" in told["notes"][0]
    run(inspect, demo)
    first = capsys.readouterr().out.splitlines()[0]
    for words in ("LoRA adapter for the embedded demo model", "rank 4, alpha 2", "84 modules of the UNet", "0.3 MB"):
        assert words in first


def test_inspect_tells_families(capsys, tmp_path):
    for width, family in ((768, "sd1"), (1024, "sd2"), (2048, "sdxl")):
        name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
        name = name.replace("down_blocks_0_attentions_0", "input_blocks_4_1") if family == "sdxl" else name
        tensors = {f"{name}.lora_down.weight": torch.ones(2, width), f"{name}.lora_up.weight": torch.ones(320, 2)}
        save_file(tensors, tmp_path / "a.safetensors")
        assert report(tmp_path / "a.safetensors", capsys)["family"] == family


def test_inspect_does_not_read_a_large_file_whole(tmp_path, capsys):
    """20 GB that are on no disk: reading them would take minutes."""
    width = 50_000
    name, at, header = "lora_unet_mid_block_attentions_0_proj_in", 0, {"__metadata__": {"ss_seed": "1"}}
    for tensor, shape in (("lora_down.weight", [width, width]), ("lora_up.weight", [width, width])):
        header[f"{name}.{tensor}"] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * width**2]}
        at += 4 * width**2
    text = json.dumps(header).encode()
    path = tmp_path / "large.safetensors"
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        out.truncate(8 + len(text) + at)
    start = time.monotonic()
    told = report(path, capsys)
    assert time.monotonic() - start < 5
    assert told["ranks"] == {str(width): 1}
    assert told["metadata"] == {"ss_seed": "1"}
    assert told["bytes"] > 19e9
