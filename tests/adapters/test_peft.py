"""Adapters as PEFT and diffusers save them: read at the strength at which they are run there, or refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from loralab.adapters import file
from loralab.adapters.dora import DoRA
from loralab.adapters.inject import inject
from loralab.adapters.loha import LoHa
from loralab.adapters.lokr import LoKr
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.errors import UserError
from loralab.models.families import sdxl
from loralab.models.families.sd import load
from loralab.tools import convert, inspect, merge
from tests.support.pipelines import pipeline_of
from tests.support.tools import answer, run

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]


def lora(**options):
    from peft import LoraConfig

    return LoraConfig(r=4, lora_alpha=16, target_modules=ATTENTION, init_lora_weights=False, **options)


def loha(**options):
    from peft import LoHaConfig

    return LoHaConfig(r=3, alpha=7, target_modules=[*ATTENTION, "conv1", "proj_in"], init_weights=False, **options)


def lokr(**options):
    from peft import LoKrConfig

    return LoKrConfig(
        r=options.pop("r", 2), alpha=7, target_modules=[*ATTENTION, "conv1"], init_weights=False, **options
    )


def convolutions():
    config = lora()
    config.target_modules = [*ATTENTION, "conv1", "proj_in", "conv_in", "time_emb_proj"]
    return config


def doras_of_convolutions():
    config = convolutions()
    config.use_dora = True
    return config


CONFIGS = {
    "lora": (LoRA, lora),
    "rslora": (LoRA, lambda: lora(use_rslora=True)),
    "patterns": (
        LoRA,
        lambda: lora(
            rank_pattern={"attn2.to_k": 2, r"^mid_block.*to_q": 3},
            alpha_pattern={"to_k": 3, "attn1.to_v": 5, r"^mid_block.*to_q": 1},
            use_rslora=True,
        ),
    ),
    "convolutions": (LoRA, convolutions),
    "fan_in_fan_out": (LoRA, lambda: lora(fan_in_fan_out=True)),
    "dora": (DoRA, lambda: lora(use_dora=True)),
    "dora_of_convolutions": (DoRA, doras_of_convolutions),
    "loha": (LoHa, loha),
    "loha_tucker": (LoHa, lambda: loha(use_effective_conv2d=True, alpha_pattern={"conv1": 2})),
    "lokr": (LoKr, lokr),
    "lokr_tucker": (LoKr, lambda: lokr(use_effective_conv2d=True)),
    "lokr_both": (LoKr, lambda: lokr(decompose_both=True, r=1)),
    "lokr_whole": (LoKr, lambda: lokr(r=16, rank_pattern={"to_q": 64}, alpha_pattern={"to_k": 3})),
}


def close(ours, theirs, tolerance=2e-6):
    torch.testing.assert_close(ours, theirs, atol=tolerance * max(1.0, theirs.abs().max().item()), rtol=0)


def base(folder: Path):
    return load(str(folder), attention="eager", resolution=64)


def wrapped(model, config, seed=0):
    """A model that PEFT has put adapters on, every one of them small and not zero."""
    from peft import get_peft_model

    with torch.random.fork_rng(devices=[]), pytest.warns() if getattr(config, "fan_in_fan_out", 0) else torch.no_grad():
        torch.manual_seed(seed)
        out = get_peft_model(model, config)
        for name, parameter in out.named_parameters():
            if parameter.requires_grad and "magnitude" not in name:
                parameter.data = 0.2 * torch.randn(parameter.shape)
            elif "magnitude" in name:
                parameter.data *= 1 + 0.1 * torch.rand(parameter.shape)
    return out.eval()


@pytest.fixture(scope="module")
def ours(random_base):
    return base(random_base)


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_by_peft(name, random_base, ours, tmp_path):
    """The same outputs as in PEFT: started from, converted first, and (of a few) merged."""
    kind, config = CONFIGS[name]
    theirs = base(random_base)
    before = answer(theirs)
    peft = wrapped(theirs.denoiser, config())
    expected = answer(theirs)
    assert (expected - before).abs().max() > 1e-3
    peft.save_pretrained(tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    run(convert, path, "-o", tmp_path / "kohya.safetensors")
    for one in (path, tmp_path / "kohya.safetensors"):
        close(with_adapters(ours, kind, one), expected)
    if name in ("lora", "dora", "lokr_whole"):
        run(merge, path, "--base", random_base, "-o", tmp_path / "merged")
        close(answer(base(tmp_path / "merged")), expected, 1e-5)  # the sum of both is rounded to fp32


def with_adapters(family, kind, path: Path, **targets) -> torch.Tensor:
    """What a model answers with the adapters of a file."""
    adapters = inject(family, kind(rank=1, weights=str(path)), Targets(**{"text_encoder": False} | targets)).eval()
    try:
        return answer(family)
    finally:
        adapters.remove()


def test_saved_as_a_pickle_and_under_another_name(random_base, ours, tmp_path, capsys):
    """PEFT's older format; a renamed file beside its configuration; one that has lost it is refused."""
    theirs = base(random_base)
    peft = wrapped(theirs.denoiser, lora())
    expected = answer(theirs)
    peft.save_pretrained(tmp_path, safe_serialization=False)
    path = (tmp_path / "adapter_model.bin").rename(tmp_path / "mine.bin")
    close(with_adapters(ours, LoRA, path), expected)
    run(inspect, path, "--json")
    assert json.loads(capsys.readouterr().out)["alphas"] == {"16": 32}
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        file.load(path)


def test_named_adapters(random_base, ours, tmp_path):
    """State dicts of PEFT's models have the adapter's name in their keys."""
    theirs = base(random_base)
    peft = wrapped(theirs.denoiser, lora())
    expected = answer(theirs)
    state = {key: t for key, t in peft.state_dict().items() if "lora_" in key}
    assert all(".default." in key for key in state)
    for name in ("default", "my-style"):
        save_file({key.replace("default", name): t for key, t in state.items()}, tmp_path / "a.safetensors")
        peft.peft_config["default"].save_pretrained(tmp_path)
        close(with_adapters(ours, LoRA, tmp_path / "a.safetensors"), expected)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated")  # PEFT asks for it
def test_text_encoders_saved_by_peft(random_base, ours, tmp_path):
    """Of SD, and the second one of SDXL, whose keys are the same: its class tells them apart."""
    from peft import LoraConfig

    config = {"r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "fc1"], "init_lora_weights": False}
    theirs = base(random_base)
    wrapped(theirs.text_encoders["text_encoder"], LoraConfig(**config)).save_pretrained(tmp_path / "te")
    expected = answer(theirs)
    path = tmp_path / "te" / "adapter_model.safetensors"
    path = tmp_path / "te" / "adapter_model.safetensors"
    close(with_adapters(ours, LoRA, path, unet=False, text_encoder=True), expected)
    xl = sdxl.miniature(str(random_base / "tokenizer"))
    wrapped(xl.text_encoders["text_encoder_2"], LoraConfig(**config)).save_pretrained(tmp_path / "te2")
    path = tmp_path / "te2" / "adapter_model.safetensors"
    names = file.load(path).groups
    assert all(name.startswith("lora_te2_") for name in names)
    assert {group.alpha for group in names.values()} == {6.0}
    settings = json.loads((tmp_path / "te2" / "adapter_config.json").read_text())
    (tmp_path / "te2" / "adapter_config.json").write_text(json.dumps(settings | {"auto_mapping": None}))
    with pytest.raises(UserError, match="either text encoder"):
        file.load(path, {part: xl.targets(part) for part in xl.parts()})


def diffusers_saves(family, folder: Path, text: bool) -> None:
    """By `save_lora_weights`, with the configurations in the header."""
    from diffusers.training_utils import _collate_lora_metadata
    from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    pipeline = pipeline_of(family)
    parts = {"unet": family.denoiser} | ({"text_encoder": family.text_encoders["text_encoder"]} if text else {})
    layers = {
        f"{p}_lora_layers": convert_state_dict_to_diffusers(get_peft_model_state_dict(m)) for p, m in parts.items()
    }
    pipeline.save_lora_weights(folder, **layers, **_collate_lora_metadata(parts))


@pytest.mark.parametrize("way", ["pipeline", "pipeline_unet", "model", "plain"])
def test_saved_by_diffusers(way, random_base, ours, tmp_path):
    """The whole pipeline's and a model's own, whose configuration has no part in front of its keys."""
    from peft import LoraConfig

    theirs = base(random_base)
    text = way == "pipeline"
    pattern = {} if way == "plain" else {"rank_pattern": {"attn2.to_k": 2}, "alpha_pattern": {"attn2.to_k": 5}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs.denoiser.add_adapter(lora(**pattern))
        if text:
            encoder = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            theirs.text_encoders["text_encoder"].add_adapter(encoder)
    expected = answer(theirs)
    if way in ("model", "plain"):
        theirs.denoiser.save_lora_adapter(tmp_path)
    else:
        diffusers_saves(theirs, tmp_path, text)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    if way == "plain":
        save_file(load_file(path), path, {"lora_alpha": "16"})
    close(with_adapters(ours, LoRA, path, text_encoder=text), expected)
    run(convert, path, "--layout", "diffusers", "-o", tmp_path / "again.safetensors")
    close(with_adapters(ours, LoRA, tmp_path / "again.safetensors", text_encoder=text), expected)


REFUSED = {
    "pissa": {"init_lora_weights": "pissa"},
    "pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
    "olora": {"init_lora_weights": "olora"},
    "modules_to_save": {"modules_to_save": ["conv_in"]},
    "bias": {"bias": "lora_only"},
    "lora_bias": {"lora_bias": True},
    "target_parameters": {"target_parameters": ["experts.up"]},
    "trainable_token_indices": {"trainable_token_indices": [1, 2]},
    "a_later_option": {"a_later_option": True},
    "peft_type": {"peft_type": "IA3"},
    "lora_alpha": {"lora_alpha": "much"},
    "alpha_pattern": {"alpha_pattern": {"to_q": None}},
    "use_dora": {"use_dora": True},
}


@pytest.fixture(scope="module")
def saved(random_base, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("peft")
    wrapped(base(random_base).denoiser, lora()).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("key", REFUSED)
def test_what_cannot_be_represented_is_named(key, saved, tmp_path, capsys):
    """In a configuration beside the file and in one in the header; inspect shows the rest."""
    told = json.loads((saved / "adapter_config.json").read_text()) | REFUSED[key]
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    beside = tmp_path / "adapter_model.safetensors"
    save_file(state := load_file(saved / beside.name), beside)
    header = tmp_path / "header.safetensors"
    bare = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}
    save_file(bare, header, {"lora_adapter_metadata": json.dumps(told)})
    named = next(iter(REFUSED[key]))
    for path in (beside, header):
        with pytest.raises(UserError, match=named):
            file.load(path)
        run(inspect, path)
        assert named in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 5000, '{"r": "four"}', "\0"])
def test_a_damaged_configuration(text, saved, tmp_path):
    save_file(load_file(saved / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        file.load(tmp_path / "adapter_model.safetensors")
