"""Anima in miniature: equal to diffusers' pipeline and to PEFT, and trained by the command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loralab import cli
from loralab.adapters import file
from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.diffusion.loss import L2
from loralab.diffusion.objective import Objective
from loralab.diffusion.timesteps import LogitNormal, Uniform
from loralab.errors import UserError
from loralab.models.families import anima
from loralab.models.families.anima.model import Anima
from loralab.models.families.anima.names import key_of
from loralab.models.load import empty
from loralab.models.preview import sample, start_noise
from loralab.models.probe import identify, look_at_base
from loralab.models.registry import FAMILIES, of_adapter
from loralab.models.text import language
from loralab.rng import generator
from loralab.types import Batch, Draw
from tests.support.wan_vae import wan_name

ROW = FAMILIES["anima"]
CAPTIONS = ["a red star", "", "two small hills under a wide sky"]


@pytest.fixture(scope="module")
def family() -> Anima:
    """Not to be changed."""
    return anima.miniature()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def transformers_tokenizers() -> dict:
    """Those of the miniature, as transformers wraps them; T5's adds its end by itself."""
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    qwen, t5 = language.of_bytes(), language.of_bytes(anima.T5_SPECIAL)
    t5.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return {
        "tokenizer": PreTrainedTokenizerFast(tokenizer_object=qwen, pad_token="<|endoftext|>"),
        "t5_tokenizer": PreTrainedTokenizerFast(tokenizer_object=t5, pad_token="<pad>", eos_token="</s>"),
    }


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch):
    """Diffusers' own of the same miniature. It resizes a mask of zeros, for which it wants torchvision."""
    from diffusers.models.transformers import transformer_cosmos
    from diffusers.modular_pipelines.anima.modular_blocks_anima import AnimaAutoBlocks

    resize = SimpleNamespace(resize=lambda mask, size, interpolation: F.interpolate(mask, size))
    stand_in = SimpleNamespace(functional=resize, InterpolationMode=SimpleNamespace(NEAREST=0))
    monkeypatch.setattr(transformer_cosmos, "transforms", stand_in, raising=False)
    same = anima.miniature()
    same.denoiser.register_to_config(concat_padding_mask=True)
    made = AnimaAutoBlocks().init_pipeline()
    parts = {**same.parts(), "vae": same.vae, "scheduler": same.scheduler(), **transformers_tokenizers()}
    made.update_components(**parts)
    made.set_progress_bar_config(disable=True)
    return made


@contextmanager
def outputs(module: nn.Module) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
    yield found
    hook.remove()


def test_pictures_are_those_of_diffusers_pipeline(family: Anima, pipeline) -> None:
    """Step by step, with guidance, each of two prompts; and its texts, padded, short and empty."""
    prompts, seeds = CAPTIONS[::2], [3, 4]
    with outputs(family.denoiser) as ours, outputs(family.encoders["text_conditioner"].model) as texts:
        pictures = sample(family, prompts, seeds, negative="", steps=4, guidance=4.0, width=96, height=64)
    noise = start_noise(seeds, (16, 8, 12)).unsqueeze(2)
    given = {"latents": noise, "num_inference_steps": 4, "height": 64, "width": 96, "output_type": "pt"}
    with outputs(pipeline.transformer) as theirs, outputs(pipeline.text_conditioner) as their_texts:
        expected = pipeline(prompt=prompts, negative_prompt=[""] * 2, **given).images
    assert (len(ours), len(theirs)) == (4, 8)
    by_step = [torch.cat([without, towards]) for towards, without in zip(theirs[::2], theirs[1::2], strict=True)]
    for step, other in zip(ours, by_step, strict=True):
        torch.testing.assert_close(step, other, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(texts[0], torch.cat(their_texts[::-1]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((pictures + 1) / 2, expected, rtol=1e-4, atol=1e-5)


def test_captions_of_a_batch_are_as_each_alone(family: Anima) -> None:
    together = family.encode_text(CAPTIONS)
    assert together.lengths == (11, 1, 33)
    noisy, at = drawn(3, 16, 8, 8), torch.tensor([100.0, 500.0, 900.0])
    predictions = family.predict(noisy, at, together)
    for row, caption in enumerate(CAPTIONS):
        alone = family.encode_text([caption])
        torch.testing.assert_close(together.by_caption()[row], alone.hidden[0], rtol=1e-5, atol=1e-5)
        one = family.predict(noisy[row : row + 1], at[row : row + 1], alone)
        torch.testing.assert_close(predictions[row : row + 1], one, rtol=1e-5, atol=1e-5)


def test_captions_are_cut_by_either_tokenizer() -> None:
    family = anima.miniature(max_token_length=8)
    assert family.fit("1234567").lost == 0
    assert (family.fit("12345678").lost, family.fit("123456789").lost) == (1, 2)  # T5's has an end, too
    assert family.encode_text(["123456789"]).hidden.shape[1] == 8
    measure = ROW.miniatures[0].measure({"_target_": "loralab.models.families.anima.miniature", "max_token_length": 8})
    assert measure.most == 7
    assert measure.of("12345678")[0] == 8
    assert measure.of("12345678")[1].lost == 1


def test_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    """Of a T5 tokenizer as transformers saves it, its end and its limit included."""
    from transformers import T5Tokenizer

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁star", -3.0), ("s", -4.0), ("t", -4.0)]
    pieces += [("▁a", -3.5), ("red", -5.0), ("▁red", -4.5)]
    theirs = T5Tokenizer(vocab=pieces, extra_ids=2)
    theirs.save_pretrained(tmp_path)
    ours, frame = language.read_tokenizer(tmp_path), language.Frame(6, end="</s>")
    for caption in ("a red star", "  a   red\nstars", "", "a a a a a a a a", "café star"):
        expected = theirs(caption, truncation=True, max_length=6).input_ids
        assert frame.ids(ours, caption) == expected, caption


def test_an_adapter_is_the_one_of_diffusers_and_peft(family: Anima, pipeline, tmp_path: Path) -> None:
    """In the layouts of diffusers and of ComfyUI, read by the loader of its pipeline; the conditioner's included."""
    adapted, table = anima.miniature(), {part: family.targets(part) for part in family.parts()}
    targets = Targets(in_out=True, text_encoder=False, text_conditioner=True)
    adapters = inject(adapted, LoRA(rank=2, alpha=1.0), targets)
    for number, tensor in enumerate(adapters.parameters()):
        nn.init.normal_(tensor, std=0.2, generator=torch.Generator().manual_seed(number))
    noisy, at = drawn(1, 16, 8, 8), torch.tensor([512.3])
    states = family.encoders["text_encoder"](["star"]).hidden
    ids, mask = torch.tensor([[*b"star", 1]]), torch.ones(1, 5, dtype=torch.bool)
    ids[0, :4] = torch.tensor(language.of_bytes(anima.T5_SPECIAL).encode("star").ids)

    @torch.no_grad()
    def predicted() -> Tensor:
        text = pipeline.text_conditioner(states, ids, mask, mask[:, :4])
        given = (noisy.unsqueeze(2), at / 1000, text)
        return pipeline.transformer(*given, padding_mask=torch.zeros(1, 1, 64, 64)).sample.squeeze(2)

    before, ours = predicted(), adapted.predict(noisy, at, adapted.encode_text(["star"]))
    assert (before - ours).abs().max() > 0.05
    kohya, paths = adapters.state(), adapters.state("diffusers")
    assert len(kohya) // 3 == len(paths) // 2 == 54 + 21
    for name, layout in {"diffusers": paths, "comfyui": {_comfyui(key): t for key, t in paths.items()}}.items():
        pipeline.load_lora_weights(layout)
        torch.testing.assert_close(ours, predicted(), rtol=1e-4, atol=1e-4)
        pipeline.unload_lora_weights()
        torch.testing.assert_close(before, predicted())
        save_file({key: tensor.contiguous() for key, tensor in layout.items()}, tmp_path / name)
        assert of_adapter(layout) is of_adapter(kohya) is ROW
        groups = file.load(tmp_path / name, table).groups
        assert groups.keys() == {key.partition(".")[0] for key in kohya}
        for module, group in groups.items():
            up, down = (group.tensors[f"lora_{way}"] * 1.0 for way in ("up", "down"))
            delta = kohya[f"{module}.lora_up.weight"] @ kohya[f"{module}.lora_down.weight"] / 2
            torch.testing.assert_close(up @ down * group.scale, delta)


def _comfyui(key: str) -> str:
    """By the names of the original code, written down on their own."""
    part, _, path = key.partition(".")
    if part == "text_conditioner":
        return f"diffusion_model.llm_adapter.{path}"
    for pattern, original in {
        r"^transformer_blocks": "blocks",
        r"attn1\.": "self_attn.",
        r"attn2\.": "cross_attn.",
        r"to_([qkv])\.": r"\1_proj.",
        r"to_out\.0": "output_proj",
        r"ff\.net\.0\.proj": "mlp.layer1",
        r"ff\.net\.2": "mlp.layer2",
        r"norm1\.linear_": "adaln_modulation_self_attn.",
        r"norm2\.linear_": "adaln_modulation_cross_attn.",
        r"norm3\.linear_": "adaln_modulation_mlp.",
        r"^norm_out\.linear_": "final_layer.adaln_modulation.",
        r"^proj_out": "final_layer.linear",
        r"^time_embed\.t_embedder": "t_embedder.1",
        r"^time_embed\.norm": "t_embedding_norm",
        r"^patch_embed\.proj": "x_embedder.proj.1",
        r"norm_([qk])\.": r"\1_norm.",
    }.items():
        path = re.sub(pattern, original, path)
    return f"diffusion_model.{path}"


def batch(count: int = 2) -> Batch:
    side = torch.tensor([[64, 64]] * count)
    return Batch(
        draws=[Draw(0, i) for i in range(count)],
        items=[],
        captions=["sks star", "a hill"][:count],
        pixels=None,
        latent_mean=None,
        latent_std=None,
        mask=None,
        weight=torch.ones(count),
        is_reg=torch.zeros(count, dtype=torch.bool),
        original_size=side,
        crop=side * 0,
        target_size=side,
    )


def test_the_objective_is_a_closed_form(family: Anima, pipeline) -> None:
    """|v((1 − σ)x + σn, σ) − (n − x)|², v of diffusers' transformer and σ from sigmoid(normal), shifted by 3."""
    samples, x = batch(), drawn(2, 16, 8, 8)
    conditioning = family.encode_text(samples.captions, samples)
    with torch.no_grad():
        predict = lambda noisy, steps: family.predict(noisy, steps, conditioning)  # noqa: E731
        found = Objective({}, LogitNormal(shift=3.0), L2(), {})(predict, x, family.process, samples, 7)
    n = torch.stack([torch.randn(16, 8, 8, generator=generator(7, "noise", *d)) for d in samples.draws])
    sigma = (found.timesteps / 1000).view(-1, 1, 1, 1)
    text = F.pad(conditioning.hidden, (0, 0, 0, 512 - conditioning.hidden.shape[1]))
    with torch.no_grad():
        given = (((1 - sigma) * x + sigma * n).unsqueeze(2), sigma.flatten(), text)
        v = pipeline.transformer(*given, padding_mask=torch.zeros(1, 1, 64, 64)).sample.squeeze(2)
    torch.testing.assert_close(found.loss, ((v - (n - x)) ** 2).mean((1, 2, 3)), rtol=1e-5, atol=1e-5)


def test_one_batch_is_learned_by_heart() -> None:
    family = anima.miniature()
    adapters = inject(family, LoRA(rank=32), Targets(in_out=True, text_encoder=False))
    samples, latents = batch(1), drawn(1, 16, 8, 8)
    conditioning = family.encode_text(samples.captions, samples)
    optimizer = torch.optim.Adam(adapters.parameters(), lr=1e-2)

    def loss() -> Tensor:
        at = torch.tensor([600.0])
        predict = lambda noisy, steps: family.predict(noisy, steps, conditioning)  # noqa: E731
        return Objective({}, Uniform(), L2(), {})(
            predict, latents, family.process, samples, 0, timesteps=at
        ).loss.mean()

    first = loss().item()
    for _ in range(150):
        optimizer.zero_grad()
        (now := loss()).backward()
        optimizer.step()
        if now.item() < 0.02 * first:
            break
    assert now.item() < 0.02 * first


def test_blocks_are_computed_again_and_attention_is_chosen(family: Anima) -> None:
    """Gradients are the same to the last bit, those of the conditioner included; eager attention up to rounding."""

    def gradients(**settings) -> list[Tensor]:
        made = anima.miniature(**settings)
        adapters = inject(made, LoRA(rank=2), Targets(text_conditioner=True))
        for number, tensor in enumerate(adapters.parameters()):
            nn.init.normal_(tensor, std=0.2, generator=torch.Generator().manual_seed(number))
        conditioning = made.encode_text(["a red star"])
        made.predict(drawn(1, 16, 8, 8), torch.tensor([300.0]), conditioning).square().sum().backward()
        return [tensor.grad for tensor in adapters.parameters() if tensor.grad is not None]

    usual = gradients()
    assert len(usual) == 2 * (30 + 14 + 20)
    assert all(map(torch.equal, usual, gradients(gradient_checkpointing=True)))
    for ours, theirs in zip(gradients(attention="eager"), usual, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    anima.miniature(attention="sdpa")


RUN = ("model=tiny_anima", "data.cache.latents=memory", "adapter.dropout=0.1", "trainer.max_steps=4")


def test_a_resumed_run_gives_the_file_of_one_that_was_not_stopped(train, capsys: pytest.CaptureFixture) -> None:
    words = (*RUN, "objective/timesteps=logit_normal", "targets.text_conditioner=true", "data/validation=split")
    words += ("callbacks.state.every_n_steps=2", "callbacks.state.enabled=true")
    whole = train(*words, "callbacks.samples.enabled=true", "callbacks.samples.steps=2", name="whole")
    assert "anima · miniature-anima-0 · predicts flow" in capsys.readouterr().out
    assert (whole / "samples" / "grid.png").is_file()
    resumed = train(*words, f"resume={next((whole / 'states').glob('*2'))}", name="resumed")
    assert (resumed / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()

    told = file.read_metadata(whole / "adapter.safetensors")
    assert (told["ss_base_model_version"], told["modelspec.architecture"]) == ("anima", "anima-preview/lora")
    assert (told["ss_timestep_sampling"], told["ss_discrete_flow_shift"]) == ("shift", "3.0")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", str(whole / "adapter.safetensors"), "--json"])
    assert not stop.value.code
    report = json.loads(capsys.readouterr().out)
    assert "Anima" in report["summary"]
    assert not report["problems"]
    layers = {block: norms["layers"] for block, norms in report["blocks"].items()}
    assert layers == {f"transformer {n}": 10 for n in range(3)} | {f"text_conditioner {n}": 10 for n in range(2)}


def test_cached_texts_change_nothing(train) -> None:
    """Up to rounding, which depends on the others of a batch."""
    words = (*RUN, "data.cache.latents=none", "adapter.dropout=0", "optimizer=sgd", "optimizer.lr=1.0")
    without, cached = train(*words, name="without"), train(*words, "data.cache.text=true", name="cached")
    ours, theirs = (load_file(run / "adapter.safetensors") for run in (without, cached))
    assert any(tensor.any() for name, tensor in ours.items() if "lora_up" in name)
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-4, atol=1e-6)


# the files that people have


def write_files(folder: Path, family: Anima) -> dict[str, str]:
    """The settings of a model in parts, under the names of its makers' files."""
    folder.mkdir()
    dit = {}
    for part in ("transformer", "text_conditioner"):
        for name, tensor in family.parts()[part].state_dict().items():
            dit[_comfyui(f"{part}.{name}").replace("diffusion_model.", "net.")] = tensor
    save_file(_copied(dit), folder / "anima.safetensors")
    qwen = {f"model.{name}": tensor for name, tensor in family.text_encoders["text_encoder"].state_dict().items()}
    save_file(_copied({**qwen, "lm_head.weight": qwen["model.embed_tokens.weight"]}), folder / "qwen.safetensors")
    vae = {wan_name(name): tensor for name, tensor in family.vae.state_dict().items()}
    save_file(_copied(vae), folder / "qwen_image_vae.safetensors")
    for name, tokenizer in transformers_tokenizers().items():
        tokenizer.save_pretrained(folder / "tokenizers" / name)
    files = {"base": "anima", "text_encoder": "qwen", "vae": "qwen_image_vae"}
    return {setting: str(folder / f"{name}.safetensors") for setting, name in files.items()} | {
        "tokenizer": str(folder / "tokenizers")
    }


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().clone() for name, tensor in state.items()}


def write_folder(folder: Path, family: Anima) -> Path:
    """As diffusers and transformers save it."""
    family.denoiser.register_to_config(concat_padding_mask=True)
    for part, module in {**family.parts(), "vae": family.vae}.items():
        module.save_pretrained(folder / part)
    for name, tokenizer in transformers_tokenizers().items():
        tokenizer.save_pretrained(folder / name)
    family.scheduler().save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single files without configs are of the miniature's size."""
    monkeypatch.setitem(FAMILIES, "anima", replace(ROW, architecture=anima.MINIATURE))


def test_files_of_parts_are_the_folder(small: None, tmp_path: Path) -> None:
    """To the last bit of every weight and of what it predicts; and each says what it lacks."""
    given = write_files(tmp_path / "files", anima.miniature(seed=3))
    folder = write_folder(tmp_path / "folder", anima.miniature(seed=3))
    made = [anima.miniature(seed=3), anima.load(str(folder)), anima.load(**given)]
    states = [{**model.parts(), "vae": model.vae} for model in made]
    noisy, at = drawn(2, 16, 8, 8), torch.tensor([100.0, 700.0])
    predictions = [model.predict(noisy, at, model.encode_text(CAPTIONS[1:])) for model in made]
    for other, prediction in zip(states[1:], predictions[1:], strict=True):
        assert torch.equal(prediction, predictions[0])
        for part, module in states[0].items():
            theirs = other[part].state_dict()
            assert all(torch.equal(tensor, theirs[name]) for name, tensor in module.state_dict().items())
    assert made[1].scheduler().config.shift == made[2].scheduler().config.shift == 3.0

    base = Path(given["base"])
    assert look_at_base(base, needs=()).family == "anima"
    with pytest.raises(UserError, match=r"has no text encoder and no VAE\s+→ set model.text_enc"):
        look_at_base(base)
    with pytest.raises(UserError, match="use model=anima"):
        identify(str(base), "sdxl", needs=())


@pytest.mark.parametrize("kind", ["fp8", "int8", "nf4"])
def test_a_base_in_fewer_bits_trains(small: None, train, tmp_path: Path, kind: str) -> None:
    """Its text conditioner's adapters, too."""
    base = write_folder(tmp_path / "base", anima.miniature())
    words = ("model=anima", "data.resolution=64", "data.buckets.step=16", "trainer.max_steps=2")
    run = train(*words, f"model.base={base}", f"model.quantize={kind}", "targets.text_conditioner=true")
    ups = [tensor for name, tensor in load_file(run / "adapter.safetensors").items() if "lora_up" in name]
    assert ups
    assert all(tensor.any() for tensor in ups)


def test_captions_are_counted_by_tokenizers_on_disk(small: None, tmp_path: Path) -> None:
    """As doctor does, by that which counts more; by CLIP's where there are none."""
    given = write_files(tmp_path / "files", anima.miniature())
    measure = ROW.measure({**given, "max_token_length": 6})
    assert (measure.most, measure.of("12345"), measure.of("123456")) == (5, (5, (1, 0)), (6, (1, 1)))
    alone = ROW.measure({"t5_tokenizer": f"{given['tokenizer']}/t5_tokenizer", "max_token_length": 6})
    assert alone.of("123456") == (6, (1, 1))
    assert ROW.measure({"base": given["base"]}).of("a star")[0] == 2


def test_an_adapter_is_merged_into_either_layout(small: None, train, tmp_path: Path, capsys) -> None:
    """One that was trained from the files of parts."""
    given = write_files(tmp_path / "files", anima.miniature())
    folder = write_folder(tmp_path / "folder", anima.miniature())
    words = ("model=anima", "data.resolution=64", "data.buckets.step=16", "targets.in_out=true", "optimizer.lr=0.05")
    words += tuple(f"model.{setting}={path}" for setting, path in given.items())
    path = train(*words, "targets.text_conditioner=true") / "adapter.safetensors"
    adapted = anima.miniature()
    noisy, at = drawn(1, 16, 8, 8), torch.tensor([500.0])
    before = adapted.predict(noisy, at, adapted.encode_text(["star"]))
    inject(adapted, LoRA(rank=4, weights=str(path)), Targets(text_conditioner=True))
    ours = adapted.predict(noisy, at, adapted.encode_text(["star"]))
    assert (ours - before).abs().max() > 1e-3
    for name, base in {"merged": str(folder), "merged.safetensors": given["base"]}.items():
        with pytest.raises(SystemExit) as stop:
            cli.main(["merge", str(path), "--base", base, "-o", str(tmp_path / name)])
        assert not stop.value.code, capsys.readouterr().err
        others = given if name.endswith("safetensors") else {}
        merged = anima.load(**{**others, "base": str(tmp_path / name)})
        theirs = merged.predict(noisy, at, merged.encode_text(["star"]))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# at full size


def test_every_tensor_at_full_size() -> None:
    """685 of the file of transformer and conditioner, 310 of Qwen3 and 194 of the VAE: through the layout and back."""
    with torch.device("meta"):
        parts = {part: empty(ROW, part, config) for part, config in ROW.architecture.items()}
    states = {part: module.state_dict() for part, module in parts.items()}
    layout = {
        _comfyui(f"{part}.{name}").replace("diffusion_model.", "model.diffusion_model."): tensor
        for part in ("transformer", "text_conditioner")
        for name, tensor in states[part].items()
    }
    assert len(layout) == len(states["transformer"]) + len(states["text_conditioner"]) == 567 + 118
    assert (len(states["text_encoder"]), len(states["vae"])) == (310, 194)
    assert sum(t.numel() for t in states["transformer"].values()) == 1_956_405_248
    shapes = {
        "blocks.27.mlp.layer1.weight": (8192, 2048),
        "blocks.0.cross_attn.k_proj.weight": (2048, 1024),
        "blocks.0.self_attn.q_norm.weight": (128,),
        "blocks.0.adaln_modulation_mlp.2.weight": (6144, 256),
        "x_embedder.proj.1.weight": (2048, 68),
        "final_layer.linear.weight": (64, 2048),
        "llm_adapter.embed.weight": (32128, 1024),
        "llm_adapter.blocks.5.cross_attn.q_norm.weight": (64,),
    }
    assert {name: tuple(layout[f"model.diffusion_model.{name}"].shape) for name in shapes} == shapes
    for part in ("transformer", "text_conditioner"):
        found = ROW.file_tensors(ROW, part, dict(layout), ROW.architecture[part])
        assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in states[part].items()}
        keys = {key_of(ROW, part, target.path, ROW.architecture[part])[0] for target in ROW.table[part]}
        assert keys <= layout.keys()


def test_targets_are_those_of_sd_scripts() -> None:
    """By default ten modules of each block, by their original names; in all, every linear layer."""
    chosen = Targets(text_encoder=False).choose(ROW.table, 28, conv=False)
    inside = [f"{a}_attn_{p}_proj" for a in ("self", "cross") for p in ("q", "k", "v", "output")]
    inside += ["mlp_layer1", "mlp_layer2"]
    assert {site.name for site in chosen} == {f"lora_unet_blocks_{n}_{name}" for n in range(28) for name in inside}
    every = Targets(in_out=True, text_conditioner=True).choose(ROW.table, 28, conv=False)
    with torch.device("meta"):
        parts = {part: empty(ROW, part, ROW.architecture[part]) for part in ROW.parts}
    linear = {f"{p}.{n}" for p, part in parts.items() for n, m in part.named_modules() if isinstance(m, nn.Linear)}
    assert {site.path for site in every} == linear
    names = {site.name for site in every}
    assert {"lora_unet_x_embedder_proj_1", "lora_unet_t_embedder_1_linear_2", "lora_unet_final_layer_linear"} <= names
    assert {"lora_unet_llm_adapter_blocks_5_self_attn_o_proj", "lora_te_layers_27_mlp_gate_proj"} <= names
