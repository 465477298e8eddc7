"""Z-Image: equal to diffusers' transformer, pipeline, scheduler and loader, alone and by the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from loralab import cli
from loralab.adapters import file
from loralab.adapters.base import Method
from loralab.adapters.inject import AdapterSet, inject
from loralab.adapters.keys import Names, split
from loralab.adapters.kinds import suffix
from loralab.adapters.layouts import Layout, layout_of
from loralab.adapters.loha import LoHa
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.diffusion.loss import L2
from loralab.diffusion.objective import Objective
from loralab.diffusion.timesteps import Uniform
from loralab.errors import UserError
from loralab.models import probe
from loralab.models.families import zimage
from loralab.models.families.zimage.architecture import MINIATURE, Z_IMAGE
from loralab.models.families.zimage.model import ZImage, tensors_of
from loralab.models.families.zimage.names import key_of
from loralab.models.load import empty
from loralab.models.preview import sample, start_noise
from loralab.models.registry import FAMILIES, of_adapter
from loralab.models.text import language
from loralab.types import Batch, Draw

ROW = FAMILIES["zimage"]
CAPTIONS = ["sks star", "a hill under a red sky, and more that is said of it"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen3's chat template for plain messages."""
FRAME = 19
"""Tokens of it around a caption, where bytes are tokens."""


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def batch(**changes) -> Batch:
    side = torch.tensor([[64, 64]] * 2)
    given = {"pixels": None, "latent_mean": None, "latent_std": None, "mask": None, "weight": torch.ones(2)}
    given |= {"is_reg": torch.zeros(2, dtype=torch.bool), "original_size": side, "crop": side, "target_size": side}
    return Batch(draws=[Draw(0, 0), Draw(0, 1)], items=[], captions=CAPTIONS, **given | changes)


@pytest.fixture(scope="module")
def plain() -> ZImage:
    """Not to be changed."""
    return zimage.miniature()


def adapted(**settings) -> tuple[ZImage, AdapterSet]:
    """A miniature with adapters of some effect."""
    family = zimage.miniature()
    adapters = inject(family, LoRA(rank=2, **settings), Targets(text_encoder=False, in_out=True))
    for n, tensor in enumerate(adapters.parameters()):
        nn.init.normal_(tensor, std=0.3, generator=torch.Generator().manual_seed(n))
    return family, adapters


def pipeline(family: ZImage):
    from diffusers import ZImagePipeline

    special = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=language.of_bytes(), **special)
    parts = {"vae": family.vae, "transformer": family.denoiser, "text_encoder": family.text_encoders["text_encoder"]}
    pipe = ZImagePipeline(scheduler=family.scheduler(), tokenizer=tokenizer, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def original(family: ZImage, start: str = "model.diffusion_model.") -> dict[str, Tensor]:
    """The transformer in the layout of its makers' file, as ComfyUI has it."""
    found: dict[str, Tensor] = {}
    for name, tensor in family.denoiser.state_dict().items():
        for theirs, ours in {"all_x_embedder.2-1": "x_embedder", "all_final_layer.2-1": "final_layer"}.items():
            name = name.replace(theirs, ours)
        for theirs, ours in {"to_out.0": "out", "norm_q": "q_norm", "norm_k": "k_norm"}.items():
            name = name.replace(f"attention.{theirs}.", f"attention.{ours}.")
        found[start + name] = tensor.clone()
    for name in [name for name in found if ".to_q." in name]:
        thirds = [found.pop(name.replace("to_q", third)) for third in ("to_q", "to_k", "to_v")]
        found[name.replace("to_q", "qkv")] = torch.cat(thirds)
    return found


def whole_folder(family: ZImage, folder: Path) -> Path:
    """As diffusers saves it, the language model with the head that its files have, and in several files."""
    pipeline(family).save_pretrained(folder)
    text = family.text_encoders["text_encoder"].state_dict()
    names = sorted(text)
    shards = {f"model-0000{n + 1}-of-00002.safetensors": names[n::2] for n in range(2)}
    for path in (folder / "text_encoder").glob("*.safetensors"):
        path.unlink()
    for shard, inside in shards.items():
        save_file({f"model.{name}": text[name].clone() for name in inside}, folder / "text_encoder" / shard)
    index = {"weight_map": {f"model.{name}": shard for shard, inside in shards.items() for name in inside}}
    (folder / "text_encoder" / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def test_captions_are_read_as_by_the_pipeline(plain: ZImage) -> None:
    """Through the chat template, each without padding; cut at the same token."""
    pipe = pipeline(plain)
    for length in (512, 40):
        family = zimage.miniature(max_token_length=length)
        theirs, _ = pipe.encode_prompt(list(CAPTIONS), max_sequence_length=length, do_classifier_free_guidance=False)
        ours = family.encode_text(CAPTIONS).by_caption()
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert [len(states) for states in ours] == [len(CAPTIONS[0]) + FRAME, 40]
    assert family.fit(CAPTIONS[1]).lost == len(CAPTIONS[1]) + FRAME - 40


@pytest.mark.parametrize("guidance", [1.0, 3.5])
def test_pictures_are_those_of_the_pipeline(plain: ZImage, guidance: float) -> None:
    """What diffusers calls a guidance_scale of 2.5 is one of 3.5 here, and none is 1."""
    steps: list[Tensor] = []
    theirs = pipeline(plain)(
        list(CAPTIONS),  # it writes into it
        height=64,
        width=48,
        num_inference_steps=4,
        guidance_scale=guidance - 1,
        negative_prompt=["bad"] * 2,
        latents=start_noise([3, 4], (16, 8, 6)),
        output_type="pt",
        callback_on_step_end=lambda pipe, n, t, known: steps.append(known["latents"]) or {},
    ).images
    ours = sample(plain, CAPTIONS, [3, 4], negative="bad", width=48, height=64, steps=4, guidance=guidance)
    torch.testing.assert_close(ours / 2 + 0.5, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(steps[0], steps[-1], atol=0.1)


def test_each_caption_of_a_batch_counts_alone(plain: ZImage) -> None:
    """Captions of different lengths together, as the text encoder gives them and from a cache."""
    noisy, at = draw(2, 16, 8, 6), torch.tensor([700.0, 20.0])
    together = plain.predict(noisy, at, plain.encode_text(CAPTIONS))
    alone = [plain.encode_text([caption]) for caption in CAPTIONS]
    cached = plain.encode_text(CAPTIONS, batch(text=alone))
    assert cached.lengths == tuple(len(states) for states in plain.encode_text(CAPTIONS).by_caption())
    one_by_one = torch.cat([plain.predict(noisy[n : n + 1], at[n : n + 1], alone[n]) for n in range(2)])
    torch.testing.assert_close(together, one_by_one, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(plain.predict(noisy, at, cached), one_by_one, rtol=1e-5, atol=1e-5)


def test_the_objective_is_that_of_a_rectified_flow(plain: ZImage) -> None:
    """By diffusers' scheduler: what is noised, and the direction that leads back to the image in one step."""
    latents, noise, at = draw(2, 16, 8, 8), draw(2, 16, 8, 8, seed=1), torch.tensor([250.0, 800.0])
    scheduler = plain.scheduler()
    scheduler.set_timesteps(sigmas=[0.5, 0.1])
    scheduler.timesteps, scheduler.sigmas = at, torch.cat([at / 1000, torch.zeros(1)])
    scheduler.set_begin_index(0)
    noisy = plain.process.add_noise(latents, noise, at)
    theirs = torch.cat([scheduler.scale_noise(latents[n : n + 1], at[n : n + 1], noise[n : n + 1]) for n in range(1)])
    torch.testing.assert_close(noisy[:1], theirs)
    target = plain.process.target(latents, noise, at)
    torch.testing.assert_close(noisy - (at / 1000).view(-1, 1, 1, 1) * target, latents, rtol=1e-5, atol=1e-5)

    given: list[tuple[Tensor, Tensor]] = []
    conditioning = plain.encode_text(CAPTIONS)

    def predict(noisy: Tensor, timesteps: Tensor) -> Tensor:
        given.append((noisy, timesteps))
        return plain.predict(noisy, timesteps, conditioning)

    with torch.no_grad():
        losses = Objective({}, Uniform(), L2(), {})(predict, latents, plain.process, batch(), 0, timesteps=at)
        ((seen, there),) = given
        drawn = (seen - (1 - at / 1000).view(-1, 1, 1, 1) * latents) / (at / 1000).view(-1, 1, 1, 1)
        out = plain.denoiser(list(seen.unsqueeze(2)), (1000 - there) / 1000, conditioning.by_caption()).sample
        expected = (-torch.stack(out).squeeze(2) - (drawn - latents)).square().mean((1, 2, 3))
    torch.testing.assert_close(losses.loss, expected, rtol=1e-4, atol=1e-4)


def test_adapters_are_those_of_peft() -> None:
    family, adapters = adapted(alpha=1.0)
    noisy, at = draw(2, 16, 8, 8), torch.tensor([700.0, 20.0])
    reference = zimage.miniature()
    conditioning = reference.encode_text(CAPTIONS)
    before = reference.predict(noisy, at, conditioning)
    state = adapters.state()
    paths = {target.kohya: target.path for target in family.targets("transformer")}
    config = LoraConfig(r=2, lora_alpha=1, target_modules=[paths[name] for name, _ in adapters])
    inject_adapter_in_model(config, reference.denoiser)
    for name, _ in adapters:
        module = reference.denoiser.get_submodule(paths[name])
        module.lora_A["default"].weight.data = state[f"{name}.lora_down.weight"]
        module.lora_B["default"].weight.data = state[f"{name}.lora_up.weight"]
    theirs = reference.predict(noisy, at, conditioning)
    torch.testing.assert_close(family.predict(noisy, at, conditioning), theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, theirs, atol=1e-2)


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "comfyui"])
def test_diffusers_loads_the_files(tmp_path: Path, layout: Layout) -> None:
    """By the pipeline's own loader, in either layout."""
    family, adapters = adapted()
    file.save(tmp_path / "a.safetensors", adapters.state(layout), {}, "fp32")
    reference = zimage.miniature()
    noisy, at = draw(1, 16, 8, 8), torch.tensor([700.0])
    conditioning = reference.encode_text(CAPTIONS[:1])
    pipeline(reference).load_lora_weights(str(tmp_path), weight_name="a.safetensors")
    theirs = reference.predict(noisy, at, conditioning)
    torch.testing.assert_close(family.predict(noisy, at, conditioning), theirs, rtol=1e-4, atol=1e-4)
    tensors = load_file(tmp_path / "a.safetensors")
    assert of_adapter(tensors).name == "zimage"
    assert layout_of(tensors) == layout
    back = file.load(tmp_path / "a.safetensors")
    assert not back.notes
    for key, tensor in adapters.state().items():
        if not key.endswith("alpha") or layout != "diffusers":
            torch.testing.assert_close(back.state[key], tensor)


@pytest.mark.parametrize("start", ["lora_unet_", "diffusion_model."])
@pytest.mark.parametrize("kind", [LoRA, LoHa])
def test_queries_keys_and_values_in_one(tmp_path: Path, start: str, kind: type[Method]) -> None:
    """Files for the makers' layout change one matrix of all three; each third is that of the whole change."""
    path = "layers.1.attention.qkv"
    name = start + (path if start.endswith(".") else path.replace(".", "_"))
    tensors = kind(rank=2).create(nn.Linear(48, 144), 2, torch.Generator().manual_seed(0))
    tensors = {ending: draw(*tensor.shape, seed=n) for n, (ending, tensor) in enumerate(tensors.items())}
    state = {f"{name}.{suffix(ending)}": tensor for ending, tensor in tensors.items()}
    save_file(state | {f"{name}.alpha": torch.tensor(1.0)}, tmp_path / "a.safetensors")
    found = file.load(tmp_path / "a.safetensors", {part: list(t) for part, t in ROW.targets(MINIATURE).items()})
    names = [f"lora_unet_layers_1_attention_to_{letter}" for letter in "qkv"]
    assert list(found.groups) == names
    thirds = torch.cat([group.kind.delta(group.tensors) for group in found.groups.values()])
    torch.testing.assert_close(thirds, kind.delta(tensors))
    assert {group.scale for group in found.groups.values()} == {0.5}


def test_keys_that_other_trainers_write() -> None:
    """Public keys of ComfyUI, musubi-tuner, ai-toolkit, OneTrainer, SimpleTuner and PEFT."""
    names = Names(ROW.table, None)
    flat = "lora_unet_layers_3_attention_to_out_0"
    for key in (
        "lora_unet_layers_3_attention_to_out_0.lora_down.weight",
        "lora_unet_layers_3_attention_out.lora_down.weight",
        "diffusion_model.layers.3.attention.to_out.0.lora_A.weight",
        "diffusion_model.layers.3.attention.out.lora_A.weight",
        "transformer.layers.3.attention.to_out.0.lora_A.weight",
        "lora_transformer_layers_3_attention_to_out_0.lora_down.weight",
        "lycoris_layers_3_attention_to_out_0.lokr_w1",
        "base_model.model.layers.3.attention.to_out.0.lora_A.weight",
        "layers.3.attention.to_out.0.lora_A.default.weight",
    ):
        assert names.of(split(key)[0]) == flat, key
    assert names.of("diffusion_model.x_embedder") == names.of("transformer.all_x_embedder.2-1")


@pytest.mark.parametrize("blocks", [True, 2])
def test_blocks_are_computed_again(blocks: bool | int) -> None:
    """As many as are asked for, each once more; the gradients are the same to the last bit."""
    gradients, calls = [], []
    for setting in (False, blocks):
        family = zimage.miniature(gradient_checkpointing=setting)
        adapters = inject(family, LoRA(rank=2), Targets(text_encoder=False))
        for tensor in adapters.parameters():
            nn.init.normal_(tensor, std=0.3, generator=torch.Generator().manual_seed(0))
        ran: list[int] = []
        for block in (*family.denoiser.layers, *family.denoiser.noise_refiner, *family.denoiser.context_refiner):
            block.register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
        conditioning = family.encode_text(CAPTIONS)
        family.predict(draw(2, 16, 8, 8), torch.tensor([700.0, 20.0]), conditioning).square().mean().backward()
        gradients.append([tensor.grad for tensor in adapters.parameters()])
        calls.append(len(ran))
    assert calls[0] == 5
    assert calls[1] >= 5 + (3 if blocks is True else 1)  # nothing is kept of those before the first adapter
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_one_batch_can_be_learned_by_heart() -> None:
    """The adapters alone bring the loss of one sample near zero."""
    family = zimage.miniature()
    adapters = inject(family, LoRA(rank=16), Targets(in_out=True, text_encoder=False))
    noisy, target, at = draw(1, 16, 4, 4), draw(1, 16, 4, 4, seed=1), torch.tensor([500.0])
    conditioning = family.encode_text(CAPTIONS[:1])
    optimizer = torch.optim.Adam(adapters.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        loss = (family.predict(noisy, at, conditioning) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.5
    assert losses[-1] < 1e-2


@pytest.mark.parametrize("kind", ["folder", "alone", "bare", "shorter", "whole"])
def test_every_way_a_base_comes(tmp_path: Path, kind: str) -> None:
    """A diffusers folder in shards; the transformer alone under three beginnings; all in one file."""
    family = zimage.miniature(seed=1)
    folder = whole_folder(family, tmp_path / "folder")
    others = {part: str(folder / part) for part in ("text_encoder", "vae")} | {"tokenizer": str(folder)}
    base = folder
    if kind != "folder":
        base = tmp_path / "base.safetensors"
        start = {"bare": "", "shorter": "diffusion_model."}.get(kind, "model.diffusion_model.")
        state = original(family, start)
        if kind == "whole":
            text, vae = family.text_encoders["text_encoder"].state_dict(), family.vae.state_dict()
            state |= {f"text_encoders.qwen3_4b.transformer.model.{name}": t.clone() for name, t in text.items()}
            state |= {f"vae.{name}": tensor.clone() for name, tensor in vae.items()}
            others = {"tokenizer": str(folder)}
        save_file(state, base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(FAMILIES, "zimage", replace(ROW, architecture=MINIATURE))
        loaded = zimage.load(str(base), **({} if kind == "folder" else others))
    weights = [{name: value for name, value in f.identity.items() if "weights" in name} for f in (loaded, family)]
    assert len(weights[0]) == 3
    assert weights[0] == weights[1]
    assert loaded.text_id == family.text_id
    noisy, at = draw(1, 16, 8, 8), torch.tensor([700.0])
    ours, theirs = (f.predict(noisy, at, f.encode_text(CAPTIONS[:1])) for f in (loaded, family))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["fp8", "int8", "nf4"])
def test_a_base_in_fewer_bits_trains(tmp_path: Path, train, kind: str) -> None:
    base = whole_folder(zimage.miniature(), tmp_path / "base")
    words = ("model=zimage", "data.resolution=64", "data.buckets.step=16", "trainer.max_steps=2")
    run = train(*words, f"model.base={base}", f"model.quantize={kind}", "output.layout=kohya")
    ups = [tensor for name, tensor in load_file(run / "adapter.safetensors").items() if "lora_up" in name]
    assert ups
    assert all(tensor.any() for tensor in ups)


def test_what_a_file_is_and_lacks(tmp_path: Path) -> None:
    family = zimage.miniature()
    save_file(original(family, ""), tmp_path / "bare.safetensors")
    bare = str(tmp_path / "bare.safetensors")
    assert probe.identify(bare, "zimage", needs=["transformer"]).family == "zimage"
    with pytest.raises(UserError) as error:
        probe.identify(bare, "zimage")
    assert "has no text encoder and no VAE" in str(error.value)
    assert "set model.text_encoder=FILE and model.vae=FILE" in str(error.value)
    with pytest.raises(UserError, match="is Z-Image, not SDXL") as error:
        probe.identify(bare, "sdxl")
    assert "use model=zimage or model=zimage_turbo" in str(error.value)
    lumina = {name: tensor for name, tensor in original(family).items() if "pad_token" not in name}
    save_file(lumina, tmp_path / "lumina.safetensors")
    with pytest.raises(UserError, match="is not an"):
        probe.identify(str(tmp_path / "lumina.safetensors"), "zimage")
    scaled = original(family) | {"model.diffusion_model.layers.0.attention.qkv.scale_weight": torch.ones(1)}
    save_file(scaled, tmp_path / "scaled.safetensors")
    with pytest.raises(UserError, match="quantised with scales"):
        probe.identify(str(tmp_path / "scaled.safetensors"), "zimage")


@pytest.mark.parametrize("fused", [True, False])
def test_merged_equals_adapted(tmp_path: Path, capsys: pytest.CaptureFixture, fused: bool) -> None:
    """Into a file in which queries, keys and values are one matrix, and into a folder."""
    family, adapters = adapted()
    file.save(tmp_path / "a.safetensors", adapters.state(), {}, "fp32")
    folder = whole_folder(zimage.miniature(), tmp_path / "folder")
    base, out = (folder, tmp_path / "merged")
    if fused:
        base, out = tmp_path / "base.safetensors", tmp_path / "merged.safetensors"
        save_file(original(zimage.miniature(), ""), base)
    words = ["merge", str(tmp_path / "a.safetensors"), "--base", str(base), "-o", str(out), "--precision", "fp32"]
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert not stop.value.code, capsys.readouterr().err
    merged = zimage.miniature()
    if fused:
        inside = {f"model.diffusion_model.{name}": tensor for name, tensor in load_file(out).items()}
        state = tensors_of(ROW, "transformer", inside, {})
    else:
        state = load_file(out / "transformer" / "diffusion_pytorch_model.safetensors")
    merged.denoiser.load_state_dict(state)
    noisy, at = draw(1, 16, 8, 8), torch.tensor([700.0])
    ours, theirs = (f.predict(noisy, at, f.encode_text(CAPTIONS[:1])) for f in (family, merged))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_names_and_shapes_at_full_size() -> None:
    """Every linear layer is in our table; in the makers' layout each has the name that diffusers reads it from."""
    with torch.device("meta"):
        models = {part: empty(ROW, part, Z_IMAGE[part]) for part in ROW.parts}
    sizes = {part: sum(p.numel() for p in model.parameters()) for part, model in models.items()}
    assert sizes == {"transformer": 6_154_908_736, "text_encoder": 4_022_468_096}
    table = ROW.targets(Z_IMAGE)
    for part, model in models.items():
        linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        unread = {name for name in linears if name.startswith("layers.35.") and part == "text_encoder"}
        assert {target.path for target in table[part]} == linears - unread
    state = models["transformer"].state_dict()
    made: dict[str, list[Tensor]] = {}
    for target in table["transformer"]:
        key, third = key_of(ROW, "transformer", target.path, {})
        made.setdefault(key, [state[f"{target.path}.weight"]] * (1 if third is None else 3))
    whole = {key: torch.cat(parts) for key, parts in made.items()}
    read = tensors_of(ROW, "transformer", whole, {})
    assert {name: t.shape for name, t in read.items()} == {
        f"{target.path}.weight": state[f"{target.path}.weight"].shape for target in table["transformer"]
    }


def test_a_resumed_run_gives_the_file_of_one_that_was_not_stopped(train) -> None:
    """To the bit, with captions from the cache and dropped ones among them."""
    words = ("model=tiny_zimage", "data.cache.text=true", "data.captions.dropout_rate=0.3", "trainer.max_steps=6")
    states = ("callbacks.state.every_n_steps=3", "callbacks.state.enabled=true")
    whole = train(*words, *states, name="whole")
    stopped = next((whole / "states").glob("*3"))
    resumed = train(*words, *states, f"resume={stopped}", name="resumed")
    assert (resumed / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()
    told = file.read_metadata(whole / "adapter.safetensors")
    assert told["ss_base_model_version"] == "z_image"
    assert told["modelspec.architecture"] == "Z-Image/lora"
    assert (told["ss_timestep_sampling"], told["ss_discrete_flow_shift"]) == ("sigma", "3.0")
    keys = load_file(whole / "adapter.safetensors")
    assert {key.rpartition(".lora_")[0] for key in keys if "alpha" not in key} == {
        f"diffusion_model.{target.path}"
        for target in zimage.miniature().targets("transformer")
        if target.kind in ("attention", "feed_forward")
    }
    names = {key.partition(".")[0] for key in file.load(whole / "adapter.safetensors").state}
    inside = ("attention_to_q", "attention_to_k", "attention_to_v", "attention_to_out_0")
    inside += tuple(f"feed_forward_w{n}" for n in (1, 2, 3))
    assert names == {f"lora_unet_layers_{layer}_{name}" for layer in range(3) for name in inside}


def test_the_doctor_counts_the_tokens_of_the_language_model() -> None:
    """Those of the template are not counted, but leave less room; a tokenizer is found in the base's folder."""
    measure = ROW.measure({"_target_": "loralab.models.families.zimage.miniature", "max_token_length": 40})
    assert measure.most == 40 - FRAME
    count, fit = measure.of("é" * 12)
    assert (count, fit.lost) == (24, 3)


def test_the_language_models_own_tokenizer(tmp_path: Path) -> None:
    language.of_bytes().save(str(tmp_path / "tokenizer.json"))
    measure = ROW.measure({"_target_": ROW.loader, "base": str(tmp_path), "max_token_length": 512})
    assert measure.of("star") == (4, (1, 0))
