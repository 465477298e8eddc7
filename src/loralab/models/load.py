"""Base models from disk or Hub: diffusers folders and single files in the original layout."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from loralab.diffusion.process import PROCESSES
from loralab.errors import user_error
from loralab.models import hub, weights
from loralab.models.architecture import VOCABULARY, Architecture
from loralab.models.attention import Attention, set_attention
from loralab.models.clip import CHUNK, Clip
from loralab.models.family import Base
from loralab.models.hub import locate
from loralab.models.probe import identify, look_at_base, look_at_tokenizer, look_at_vae
from loralab.models.quantize import quantize_linears
from loralab.models.registry import FAMILIES
from loralab.progress import progress

log = logging.getLogger(__name__)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
"""Of models that come without one, as single files do."""


def load_base(
    base: str,
    family: str,
    vae: str | None,
    tokenizer: str | None,
    prediction_type: str | None,
    zero_terminal_snr: bool | None,
    dtype: str,
) -> Base:
    """The base model at a path or Hub id, on the CPU; the arguments are those of `loralab.models.sd.load`."""
    architecture, with_vae = FAMILIES[family].architecture, vae is None
    assert architecture is not None, f"{family} has a loader of its own"
    path = locate(base, "model.base", lambda path: look_at_base(path, with_vae), hub.BASE)
    found = identify(str(path), family, with_vae, says_what=prediction_type is None)
    read = read_folder if path.is_dir() else read_single_file
    parts = read(path, architecture, with_vae, DTYPES[dtype])
    if vae is not None:
        parts["vae"] = load_vae(locate(vae, "model.vae", look_at_vae, hub.VAE), architecture, "model.vae")
    if tokenizer is not None or "tokenizers" not in parts:
        parts["tokenizers"] = load_tokenizers(tokenizer, architecture)
    for part, model in parts["text_encoders"].items():
        known, has = len(parts["tokenizers"][part]), model.config.vocab_size
        if known > has:
            found = f"has {known} tokens, but the {part} of {base} has {has}"
            raise user_error(
                "model.tokenizer", found, "give the folder of the tokenizer that belongs to the base model"
            )
    predicts = _settled("prediction_type", prediction_type, found.prediction_type, "epsilon")
    ends_in_noise = _settled("zero_terminal_snr", zero_terminal_snr, found.zero_terminal_snr, False)
    return Base(path=base, process=PROCESSES[predicts](ends_in_noise), **parts)


def _settled(setting: str, wanted: Any, found: Any, default: Any) -> Any:
    """The setting, else what the base declares, else the default."""
    if wanted is None:
        return default if found is None else found
    if found is not None and found != wanted:
        log.warning("model.%s is %s, but the base model says %s; using the setting", setting, wanted, found)
    return wanted


def encoders(
    base: Base, max_token_length: int, emphasis: bool, clip_skip: int, final_norm: bool = True
) -> dict[str, Clip]:
    """The text encoders by part, with their settings applied."""
    for model in base.text_encoders.values():
        if clip_skip > model.config.num_hidden_layers:
            layers = model.config.num_hidden_layers
            raise user_error(
                "model.clip_skip", f"invalid value {clip_skip}", f"valid: 1 to {layers}, the text encoder's layers"
            )
    return {
        part: Clip(model, base.tokenizers[part], max_token_length // CHUNK, clip_skip, final_norm, emphasis)
        for part, model in base.text_encoders.items()
    }


def prepare(base: Base, attention: Attention, gradient_checkpointing: bool, quantize: str | None, dtype: str) -> None:
    """Sets how the modules compute."""
    if quantize is not None:
        for module in (base.denoiser, *base.text_encoders.values()):
            quantize_linears(module, quantize, DTYPES[dtype])
    set_attention(base.denoiser, list(base.text_encoders.values()), attention)
    if gradient_checkpointing:
        checkpoint_gradients(base.denoiser, base.text_encoders.values())


def checkpoint_gradients(unet: Any, text_encoders: Iterable[Any]) -> None:
    """Has activations computed again in backward rather than kept."""
    unet.enable_gradient_checkpointing()
    for encoder in text_encoders:
        # newer versions of transformers call it activation checkpointing
        enable = getattr(encoder, "activation_checkpointing_enable", None) or encoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
        encoder.train()  # transformers recomputes in training mode only; CLIP has no dropout


def build(cls: Any, config: Mapping[str, Any], state: dict[str, Tensor], dtype: torch.dtype, setting: str) -> Any:
    """A model of a class around given tensors, which are used as they are where they have the right type.

    Nothing is initialised first and nothing is held twice; `state` is emptied.
    """
    with torch.device("meta"):
        model = cls.from_config(config) if hasattr(cls, "from_config") else cls(cls.config_class.from_dict(config))
    wanted = model.state_dict()
    missing = sorted(set(wanted) - set(state))
    wrong = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if missing or wrong:
        name = (missing + wrong)[0]
        found = f"no {name}" if missing else f"{name} has the shape {tuple(state[name].shape)}"
        count = len(missing) + len(wrong)
        raise user_error(
            setting,
            f"its {cls.__name__} has missing or mismatched tensors: {found} (and {count - 1} more)",
            "check that the file is complete and of this model family",
        )
    size = sum(state[name].nbytes for name in wanted)
    with progress(f"loading {cls.__name__}", size // 2**20, "MB") as advance:
        tensors = {}
        for name in wanted:
            advance(state[name].nbytes / 2**20)
            tensors[name] = state.pop(name).to(dtype)
    model.load_state_dict(tensors, assign=True)
    for module in model.modules():
        if hasattr(module, "position_ids"):  # not among the weights, so still on meta
            module.position_ids = torch.arange(module.position_ids.shape[-1]).expand(1, -1)
    return model.eval()


# diffusers folders


def read_folder(path: Path, architecture: Architecture, with_vae: bool, dtype: torch.dtype) -> dict[str, Any]:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    def component(name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return json.loads((path / name / "config.json").read_text()), weights.read_component(path / name, "model.base")

    scheduler = path / "scheduler" / "scheduler_config.json"
    parts: dict[str, Any] = {
        "denoiser": build(UNet2DConditionModel, *component("unet"), dtype, "model.base"),
        "text_encoders": {
            part: build_text_encoder(part, *component(part), dtype) for part in architecture.text_encoders
        },
        "vae": load_vae(path, architecture, "model.base") if with_vae else None,
        "scheduler": json.loads(scheduler.read_text()) if scheduler.is_file() else SCHEDULER,
    }
    folders = {part: path / part.replace("text_encoder", "tokenizer") for part in architecture.text_encoders}
    if all(folder.is_dir() for folder in folders.values()):
        parts["tokenizers"] = {part: _tokenizer(folder) for part, folder in folders.items()}
    return parts


def text_class(part: str) -> Any:
    """The transformers class of a text encoder: a second one has a projection."""
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel


def build_text_encoder(part: str, config: dict[str, Any], state: dict[str, Tensor], dtype: torch.dtype) -> Any:
    """A text encoder from weights named with or without `text_model.` in front."""
    cls = text_class(part)
    with torch.device("meta"):
        wrapped = hasattr(cls(cls.config_class.from_dict({**config, "num_hidden_layers": 1})), "text_model")
    plain = {name.removeprefix("text_model."): value for name, value in state.items()}
    inside = "text_model." if wrapped else ""
    named = {name if name.startswith("text_projection") else inside + name: value for name, value in plain.items()}
    return build(cls, config, named, dtype, "model.base")


def load_vae(path: Path, architecture: Architecture, setting: str) -> Any:
    """An AutoencoderKL in fp32 from a folder, of it or of a whole model, or from a file of either layout."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        config, state = json.loads((folder / "config.json").read_text()), weights.read_component(folder, setting)
    else:
        config, state = architecture.vae, weights.read(path, setting)
    return build(AutoencoderKL, config, diffusers_vae(state, config), torch.float32, setting)


_OLD_VAE_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def diffusers_vae(state: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A VAE's weights under diffusers' present names, from its earlier ones or the original layout."""
    if any(".down_blocks." in name for name in state):
        for old, new in _OLD_VAE_NAMES.items():
            state = {name.replace(old, new): value for name, value in state.items()}
        return state
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return convert_ldm_vae_checkpoint(state, config)


# single files


def read_single_file(path: Path, architecture: Architecture, with_vae: bool, dtype: torch.dtype) -> dict[str, Any]:
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    state = weights.read(path, "model.base")
    unet = convert_ldm_unet_checkpoint(state, architecture.unet)
    texts = architecture.text_encoders
    parts = {
        "denoiser": build(UNet2DConditionModel, architecture.unet, unet, dtype, "model.base"),
        "text_encoders": {
            part: build_text_encoder(part, config, original_text(state, part, config), dtype)
            for part, config in texts.items()
        },
        "vae": None,
        "scheduler": SCHEDULER,
    }
    if with_vae:
        vae = diffusers_vae(_under(state, "first_stage_model."), architecture.vae)
        parts["vae"] = build(AutoencoderKL, architecture.vae, vae, torch.float32, "model.base")
    return parts


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def original_text(state: dict[str, Tensor], part: str, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A text encoder's weights in a single file, under transformers' names."""
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    for prefix in ("cond_stage_model.transformer.", "conditioner.embedders.0.transformer."):
        if part == "text_encoder" and (found := _under(state, prefix)):
            return found
    prefix = "conditioner.embedders.1.model." if part == "text_encoder_2" else "cond_stage_model.model."
    holder = nn.Module()
    holder.config = SimpleNamespace(**config)  # type: ignore[assignment]
    return convert_open_clip_checkpoint(holder, state, prefix)


# tokenizers


def load_tokenizers(path: str | None, architecture: Architecture) -> dict[str, Any]:
    """A CLIP tokenizer for each text encoder: from `model.tokenizer`, or with CLIP's vocabulary."""
    tokenizers, folder = {}, VOCABULARY
    if path is not None:
        folder = locate(path, "model.tokenizer", look_at_tokenizer, hub.TOKENIZER, weights=False)
    for part in architecture.text_encoders:
        own, shared = folder / part.replace("text_encoder", "tokenizer"), folder / "tokenizer"
        tokenizer = _tokenizer(next((path for path in (own, shared) if path.is_dir()), folder))
        if not own.is_dir():
            tokenizer.pad_token = architecture.pads[part]
        tokenizers[part] = tokenizer
    return tokenizers


def _tokenizer(folder: Path) -> Any:
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
