"""Adapter files: every layout in and out, what UIs load, and what goes wrong."""

from __future__ import annotations

import json
import pickle
import random
import resource
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from loralab import cli
from loralab.adapters import file
from loralab.adapters.dora import DoRA
from loralab.adapters.inject import check_start, inject
from loralab.adapters.layouts import to_diffusers, to_kohya
from loralab.adapters.loha import LoHa
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.checks.adapter import adapter_problems
from loralab.errors import UserError
from loralab.models.families import sdxl
from loralab.models.families.sd import load
from loralab.models.probe import identify
from tests import GOLDEN
from tests.support.adapters import grouped
from tests.support.pipelines import pipeline_of

REFERENCE = GOLDEN / "lora.safetensors"
IDS = torch.randint(0, 500, (1, 77), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def family(random_base):
    return load(str(random_base), attention="sdpa", resolution=64)


def trained(family, method, **targets):
    """Adapters as after training."""
    adapters = inject(family, method, Targets(**targets))
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    return adapters


def latents(pipeline) -> torch.Tensor:
    """What a picture is before it is decoded."""
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    out = pipeline(
        "sks star", num_inference_steps=2, guidance_scale=3.0, latents=noise, height=64, width=64, output_type="latent"
    )
    return out.images


def close(a, b, tolerance=1e-4):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


LORA = LoRA(rank=4, alpha=2.0, conv_rank=2)


# diffusers leaves the magnitudes of a kohya DoRA out, with a warning
@pytest.mark.parametrize(
    ("method", "layout"), [(LORA, "kohya"), (LORA, "diffusers"), (DoRA(rank=4, alpha=3.0), "diffusers")]
)
def test_diffusers_loads_it_and_draws_the_same(method, layout, family, random_base, tmp_path):
    before = latents(pipeline_of(family))
    adapters = trained(family, method)
    ours = latents(pipeline_of(family))
    path = tmp_path / "adapter.safetensors"
    file.save(path, adapters.state(layout), {}, "fp32")
    other = pipeline_of(load(str(random_base), attention="sdpa", resolution=64))
    close(latents(other), before)
    other.load_lora_weights(str(path))
    close(latents(other), ours)
    assert (ours - before).abs().max() > 0.05


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_diffusers_loads_sdxl(layout, random_base, tmp_path):
    """With names of the original code in the kohya layout, and two text encoders."""
    ours = sdxl.miniature(str(random_base / "tokenizer"))
    before = latents(pipeline_of(ours))
    adapters = trained(ours, LORA)
    names = {name.rpartition("_text_model")[0] or "_".join(name.split("_")[:3]) for name in adapters.adapters}
    assert {"lora_te1", "lora_te2", "lora_unet_input", "lora_unet_middle", "lora_unet_output"} == names
    path = tmp_path / "adapter.safetensors"
    file.save(path, adapters.state(layout), {}, "fp32")
    theirs = pipeline_of(sdxl.miniature(str(random_base / "tokenizer")))
    theirs.load_lora_weights(str(path))
    close(latents(theirs), latents(pipeline_of(ours)))
    assert (latents(theirs) - before).abs().max() > 0.05
    adapters.remove()
    again = inject(ours, LoRA(rank=1, weights=str(path)), Targets())
    assert again.fresh == []
    close(latents(theirs), latents(pipeline_of(ours)))


def test_layouts_there_and_back(family):
    adapters = trained(family, LoRA(rank=4, alpha=2.0, conv_rank=2))
    state = adapters.state()
    table = {part: family.targets(part) for part in family.parts()}
    path = to_diffusers(grouped(state), table)
    assert not any("alpha" in key or key.startswith("lora_") for key in path)
    assert "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight" in path
    back = to_kohya(path, {}, table).state
    for name, adapter in adapters:
        up, down = back[f"{name}.lora_up.weight"], back[f"{name}.lora_down.weight"]
        delta = LoRA.delta({"lora_up": up, "lora_down": down})
        close(delta, adapter.delta(), 1e-6)
        assert f"{name}.alpha" not in back  # it is the rank


def test_forms_that_diffusers_has_not(family, tmp_path):
    """A Tucker core is multiplied in, exactly; magnitudes of inputs are refused."""
    name = "lora_unet_mid_block_resnets_0_conv1"
    shapes = {"lora_down": (3, 32, 1, 1), "lora_mid": (3, 3, 3, 3), "lora_up": (32, 3, 1, 1)}
    draw = torch.Generator().manual_seed(0)
    state = {f"{name}.{key}.weight": torch.randn(shape, generator=draw) for key, shape in shapes.items()}
    state[f"{name}.alpha"] = torch.tensor(1.5)
    table = {part: family.targets(part) for part in family.parts()}
    before, after = (grouped(s)[name] for s in (state, to_kohya(to_diffusers(grouped(state), table), {}, table).state))
    close(after.change(torch.Size((32, 32, 3, 3))), before.change(torch.Size((32, 32, 3, 3))), 1e-5)
    adapters = trained(family, DoRA(rank=2, magnitude="input"))
    refused(lambda: adapters.state("diffusers"), "output.layout", "adapter.magnitude=output")


def spellings(state):
    """The same file as other programs have written it."""
    prefix = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
    name = "lora_unet_" + prefix.removeprefix("unet.").replace(".", "_")
    q = {end: state[f"{name}_to_q.lora_{end}.weight"] for end in ("down", "up")}
    out = {end: state[f"{name}_to_out_0.lora_{end}.weight"] for end in ("down", "up")}
    yield {f"{prefix}.processor.to_q_lora.{end}.weight": q[end] for end in q}, f"{name}_to_q"
    yield {f"{prefix}.processor.to_out_lora.{end}.weight": out[end] for end in out}, f"{name}_to_out_0"
    yield {f"{prefix}.to_q.lora.{end}.weight": q[end] for end in q}, f"{name}_to_q"
    yield {f"{prefix}.to_q.lora_linear_layer.{end}.weight": q[end] for end in q}, f"{name}_to_q"
    peft = "base_model.model." + prefix.removeprefix("unet.")
    yield {f"{peft}.to_q.lora_{'A' if e == 'down' else 'B'}.weight": q[e] for e in q}, f"{name}_to_q"
    yield {f"{prefix}.to_q.lora_{'A' if e == 'down' else 'B'}.default.weight": q[e] for e in q}, f"{name}_to_q"


def test_spellings_of_other_programs(family, tmp_path):
    adapters = trained(family, LoRA(rank=4))
    state = adapters.state()
    for other, name in spellings(state):
        save_file(other, tmp_path / "other.safetensors")
        config = {"r": 4, "lora_alpha": float(state[f"{name}.alpha"])}  # for what PEFT has saved
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        found = file.load(tmp_path / "other.safetensors").state
        assert found.keys() - {f"{name}.alpha"} == {f"{name}.lora_down.weight", f"{name}.lora_up.weight"}
        assert all(torch.equal(found[key], state[key]) for key in found)


def test_sdxl_by_diffusers_names_in_the_kohya_layout(random_base):
    """As some trainers write it: lora_unet_down_blocks_… where others have lora_unet_input_blocks_…"""
    family = sdxl.miniature(str(random_base / "tokenizer"))
    state = trained(family, LORA).state()
    table = {part: family.targets(part) for part in family.parts()}
    flat = {target.kohya: f"lora_unet_{target.diffusers.replace('.', '_')}" for target in table["unet"]}
    other = {
        f"{flat.get(name, name)}.{end}": state[f"{name}.{end}"] for name, _, end in (k.partition(".") for k in state)
    }
    assert not any("input_blocks" in key for key in other)
    found = to_kohya(other, {}, table).state
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_start_from_another_rank_without_alpha_in_fp16(family, tmp_path):
    """The file's ranks count; a missing alpha is the rank; what it has beyond the targets is adapted, too."""
    adapters = trained(family, LoRA(rank=5, alpha=5.0, conv_rank=3))
    with torch.no_grad():
        expected = family.denoiser(torch.ones(1, 4, 8, 8), 3, torch.ones(1, 77, 32)).sample
    state = {key: tensor.half() for key, tensor in adapters.state().items() if not key.endswith("alpha")}
    torch.save(state, tmp_path / "start.pt")
    adapters.remove()
    again = inject(family, LoRA(rank=2, alpha=1.0, weights=str(tmp_path / "start.pt")), Targets())
    assert {a.tensors["lora_down"].shape[0] for _, a in again} == {3, 5}
    assert all(a.scale == 1 for _, a in again)
    assert again.fresh == []
    assert all(p.dtype == torch.float32 and p.requires_grad for p in again.parameters())
    with torch.no_grad():
        close(family.denoiser(torch.ones(1, 4, 8, 8), 3, torch.ones(1, 77, 32)).sample, expected, 2e-2)
    again.remove()
    half = {key: tensor for key, tensor in state.items() if key.startswith("lora_te")}
    torch.save(half, tmp_path / "half.pt")
    partly = inject(family, LoRA(rank=2, weights=str(tmp_path / "half.pt")), Targets())
    assert partly.fresh
    assert all(name.startswith("lora_unet") for name in partly.fresh)


@pytest.mark.parametrize("format", file.FORMATS)
def test_bytes_are_the_same_each_time(format, tmp_path):
    state = load_file(REFERENCE)
    told = {f"ss_{i}": "x" for i in range(50)}
    paths = [tmp_path / folder / f"adapter.{format}" for folder in ("one", "other")]
    for path, keys in zip(paths, (sorted(state), sorted(state, reverse=True)), strict=True):
        file.save(path, {key: state[key] for key in keys}, dict(sorted(told.items(), reverse=path == paths[0])))
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize(("precision", "dtype"), file.DTYPES.items())
def test_precisions_and_metadata(precision, dtype, tmp_path):
    path = tmp_path / "adapter.safetensors"
    state = load_file(REFERENCE)
    state["lora_unet_mid_block_attentions_0_proj_in.alpha"] = torch.tensor(3.0001)  # no half has it
    file.save(path, state, {"ss_seed": "1", "modelspec.title": "é"}, precision)
    with safe_open(path, "pt") as written:
        assert written.metadata()["modelspec.title"] == "é"
        assert len(written.metadata()["sshs_model_hash"]) == 64
        for key in state:
            tensor = written.get_tensor(key)
            exact = key == "lora_unet_mid_block_attentions_0_proj_in.alpha"
            assert tensor.dtype == (torch.float32 if exact else dtype), key
            assert torch.equal(tensor, state[key].to(tensor.dtype))
    file.save(path, state, None, precision)
    assert file.read_metadata(path) == {}


# what goes wrong


def refused(call, *words: str) -> str:
    with pytest.raises(UserError) as error:
        call()
    text = str(error.value)
    assert all(word in text for word in words), text
    return text


class Evil:
    def __reduce__(self):
        import os

        return os.system, (f"touch {Evil.trace}",)

    trace = ""


@pytest.mark.parametrize("name", ["evil.pt", "evil.safetensors"])
def test_code_in_a_pickle_is_not_run(name, tmp_path):
    Evil.trace = str(tmp_path / "it-ran")
    (tmp_path / name).write_bytes(pickle.dumps({"lora_unet_mid_block_attentions_0_proj_in.alpha": Evil()}))
    refused(lambda: file.load(tmp_path / name), "code", "not run")
    torch.save({"a": Evil()}, tmp_path / name)
    refused(lambda: file.load(tmp_path / name), "code", "not run")
    assert not Path(Evil.trace).exists()


def test_damaged_and_missing_files(tmp_path):
    whole = REFERENCE.read_bytes()
    path = tmp_path / "a.safetensors"
    for cut in (4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(lambda: file.load(path), "a.safetensors")
    path.write_bytes(struct.pack("<Q", 1 << 40) + b"{")
    refused(lambda: file.load(path), "a.safetensors")
    for content in (b"", b"hello, I am text", bytes(range(256)) * 10):
        path.write_bytes(content)
        refused(lambda: file.load(path), "a.safetensors")
    refused(lambda: file.load(tmp_path / "nothing.safetensors"), "was not found")
    refused(lambda: file.load(tmp_path), "is a folder")
    save_file({}, path)
    refused(lambda: file.load(path), "no tensors")


def test_the_check_before_a_model_is_loaded(tmp_path):
    """A file that cannot be started from, a layout that cannot be saved in."""

    def told(**settings) -> str:
        tree = {"adapter": {"_target_": "loralab.adapters.lora.LoRA"}, "output": {}}
        for key, value in settings.items():
            tree[key] |= value
        return " ".join(map(str, adapter_problems(tree)))

    assert told(adapter={"weights": str(REFERENCE)}) == ""
    assert "was not found" in told(adapter={"weights": str(tmp_path / "a.safetensors")})
    assert "is a folder" in told(adapter={"weights": str(tmp_path)})
    (tmp_path / "cut.safetensors").write_bytes(REFERENCE.read_bytes()[:-1])
    assert "truncated" in told(adapter={"weights": str(tmp_path / "cut.safetensors")})
    Evil.trace = str(tmp_path / "it-ran")
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    assert "not run" in told(adapter={"weights": str(tmp_path / "evil.pt")})
    diffusers = {"layout": "diffusers"}
    assert told(output=diffusers) == ""
    assert "does not support LoKr" in told(output=diffusers, adapter={"_target_": "loralab.adapters.lokr.LoKr"})
    dora = {"_target_": "loralab.adapters.dora.DoRA"}
    assert told(output=diffusers, adapter={**dora, "magnitude": "output"}) == ""
    assert "adapter.magnitude=output" in told(output=diffusers, adapter={**dora, "magnitude": "input"})


def test_what_is_read_back_is_compared(tmp_path):
    """A byte that the disk changed is noticed."""
    path = tmp_path / "a.safetensors"
    state = load_file(REFERENCE)
    file.save(path, state, {}, "fp32")
    file._verify(path, state)
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match="differs"):
        file._verify(path, state)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Cut short, with other bytes in its index or anywhere, or with a piece missing."""
    kind, out = draw.randrange(4), bytearray(content)
    if kind == 0:
        return content[: draw.randrange(len(content))]
    if kind == 1:
        at = draw.randrange(len(content))
        return content[:at] + content[at + draw.randrange(1, 50) :]
    for _ in range(draw.randrange(1, 20)):
        out[draw.randrange(2000 if kind == 2 else len(out))] = draw.randrange(256)
    return bytes(out)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_whatever_is_damaged_is_told(name, tmp_path):
    """As an adapter and as a base model: read, or a mistake of the user's, and nothing else."""
    path, draw = tmp_path / name, random.Random(0)
    few = {key: tensor for key, tensor in load_file(REFERENCE).items() if "mid_block" in key}
    file.save(path, few, {}, "fp32")
    content = path.read_bytes()
    for _ in range(100):
        path.write_bytes(damaged(content, draw))
        with suppress(UserError):
            grouped(file.load(path).state)
        with pytest.raises(UserError):
            identify(str(path), "sd1")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float64])
def test_other_precisions_are_read(dtype, tmp_path):
    state = {key: tensor.to(dtype) if tensor.dim() else tensor for key, tensor in load_file(REFERENCE).items()}
    save_file(state, tmp_path / "a.safetensors")
    found = file.load(tmp_path / "a.safetensors").state
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key].double(), state[key].double()) for key in state)


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), {"state_dict": [1]}, {1: torch.ones(2)}])
def test_pickles_that_hold_no_adapter(content, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    refused(lambda: file.load(tmp_path / "a.pt"), "a.pt")


def test_an_alpha_that_is_no_number(tmp_path):
    key = "lora_unet_mid_block_attentions_0_proj_in.alpha"
    save_file(load_file(REFERENCE) | {key: torch.ones(3)}, tmp_path / "a.safetensors")
    refused(lambda: file.load(tmp_path / "a.safetensors"), key, "(3,)")


def test_what_can_be_left_out_is(train, random_base, tmp_path, capsys):
    """Counters beside the modules, in training and merge; an unknown tensor of a module is refused by both, as without
    it the file would be another adapter, and what it is and why is said."""
    source = train("trainer.max_steps=1", name="source") / "adapter.safetensors"
    state, path = load_file(source), tmp_path / "a.safetensors"
    save_file(state | {"step": torch.tensor(7), "iteration": torch.ones(1)}, path)
    train(f"adapter.weights={path}", "trainer.max_steps=1", name="from it")
    assert "a.safetensors: training counters ignored: step, iteration" in "".join(capsys.readouterr())
    merge = ("merge", "--base", str(random_base), str(path), "-o", str(tmp_path / "merged"))
    assert verb(*merge) == 0
    assert "training counters ignored" in "".join(capsys.readouterr())
    module = next(iter(state)).partition(".")[0]
    for key, what in ((f"{module}.odd.weight", "no supported adapter has"), (f"{module}.diff_b", "not supported")):
        save_file(state | {key: torch.ones(2, 2)}, path)
        train(f"adapter.weights={path}", name="refused", code=1)
        said = capsys.readouterr().err
        assert f"1 of {len(state) + 1} keys are " in said
        assert f"{what}: {key.removesuffix('.weight')}" in said
        assert "it would be a different adapter" in said
        assert verb(*merge[:-1], str(tmp_path / "not merged")) == 1
        assert key.removesuffix(".weight") in capsys.readouterr().err
        assert not (tmp_path / "not merged").exists()


def verb(*words):
    with pytest.raises(SystemExit) as stop:
        cli.main(list(words))
    return stop.value.code or 0


def test_unknown_keys_are_listed(tmp_path):
    state = load_file(REFERENCE)
    path = tmp_path / "a.safetensors"
    save_file(state | {"lora_unet_what_is_this.lora_down.weight": torch.ones(2, 2)}, path)
    refused(lambda: file.load(path), "lora_unet_what_is_this", "1 of")
    save_file(state | {"lora_unet_mid_block_attentions_0_proj_in.oft_blocks": torch.ones(2, 2)}, path)
    refused(lambda: file.load(path), "oft_blocks")
    save_file({key: tensor for key, tensor in state.items() if not key.endswith("_proj_in.lora_up.weight")}, path)
    refused(lambda: file.load(path), "proj_in.lora_down.weight")


def test_tensors_of_other_shapes(family, tmp_path):
    state = trained(family, LoRA(rank=4)).state()
    path = tmp_path / "a.safetensors"
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file(state | {f"{name}.lora_up.weight": torch.ones(32, 3)}, path)
    refused(lambda: file.load(path), "incompatible shapes", name)
    save_file(state | {f"{name}.lora_down.weight": torch.ones(4, 768)}, path)
    refused(
        lambda: inject(family, LoRA(rank=4, weights=str(path)), Targets()), "model that the file was made for", "768"
    )


def test_other_kinds_and_parts(family, tmp_path):
    path = tmp_path / "a.safetensors"
    adapters = trained(family, LoHa(rank=2))
    save_file(adapters.state(), path)
    refused(lambda: adapters.state("diffusers"), "output.layout")
    adapters.remove()
    refused(lambda: inject(family, LoRA(rank=4, weights=str(path)), Targets()), "adapter=loha")
    method = LoHa(rank=4, weights=str(path))
    refused(lambda: inject(family, method, Targets(text_encoder=False)), "targets.text_encoder_lr=0")
    refused(lambda: inject(family, method, Targets(unet=False)), "targets.unet_lr=0")
    name = "lora_unet_mid_block_attentions_0_proj_in"
    save_file(adapters.state() | {f"{name}.dora_scale": torch.ones(32, 1)}, path)
    refused(lambda: inject(family, method, Targets()), "magnitudes", name)


def test_values_that_cannot_be_trained(family, tmp_path):
    state = load_file(REFERENCE)
    key = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
    path = tmp_path / "a.safetensors"
    save_file(state | {key: state[key] * float("nan")}, path)
    refused(lambda: file.load(path), "not finite", key)
    up = key.replace("down", "up")
    save_file(state | {key: state[key] * 0, up: state[up] * 0}, path)
    refused(lambda: check_start(file.load(path).groups, LoRA), "zero", key.partition(".")[0])
    for factor in (key, up):
        save_file(state | {factor: state[factor] * 0}, path)
        check_start(file.load(path).groups, LoRA)  # as an adapter is that was never trained


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    state = load_file(REFERENCE)
    path = tmp_path / "a.safetensors"
    file.save(path, state, {})
    before = path.read_bytes()
    key = next(iter(state))
    refused(lambda: file.save(path, state | {key: torch.tensor(float("inf"))}, {}), "not a number", key)
    large = {key: tensor * 1e6 for key, tensor in state.items()}
    refused(lambda: file.save(path, large, {}, "fp16"), "too large", "bf16")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_full_disk(tmp_path):
    """The operating system refuses to write more than 100 kB."""
    path = tmp_path / "a.safetensors"
    file.save(path, load_file(REFERENCE), {})
    before = path.read_bytes()
    code = f"""
import resource
from pathlib import Path
from safetensors.torch import load_file
from loralab import cli
from loralab.adapters import file
from loralab.errors import UserError
state = load_file({str(REFERENCE)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for extension in file.FORMATS:
    try:
        file.save(Path({str(path)!r}).with_suffix("." + extension), state, {{}}, "fp32")
    except UserError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("could not be written") == len(file.FORMATS), done.stdout + done.stderr
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that nobody may write to")
def test_a_read_only_disk():
    refused(lambda: file.save(Path("/proc/adapter.safetensors"), load_file(REFERENCE), {}), "could not be written")
