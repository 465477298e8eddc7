"""Anima: NVIDIA's Cosmos-Predict2 (arXiv 2501.03575) for one frame, a transformer that predicts a rectified flow. It
reads the states of Qwen3-0.6B through a text conditioner that counts tokens as T5 does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from loralab.models.families.anima.architecture import ANIMA, MINIATURE, SCHEDULER
from loralab.models.families.anima.names import key_of, targets, tensors_of
from loralab.models.frozen import DType, Offload, Quantize
from loralab.models.row import Config, Part, Row, register
from loralab.models.text import language
from loralab.models.text.tokens import Measure
from loralab.schema.ranges import AtLeastOne, Count, Pixels, Positive

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from loralab.models.families.anima.model import Anima
    from loralab.models.load import Base

PUBLIC = "circlestone-labs/Anima-Base-v1.0-Diffusers"
"""Whose tokenizers are used with files, which come without one."""
T5_END, T5_SPECIAL = "</s>", ("<pad>", "</s>", "<unk>")


def _frames(limit: int) -> tuple[language.Frame, language.Frame]:
    """What Qwen3 and the text conditioner read of a caption."""
    return language.Frame(limit), language.Frame(limit, end=T5_END)


def _measure(model: Mapping[str, Any]) -> Measure:
    """By the tokenizer that counts more tokens."""
    qwen, t5 = _frames(model.get("max_token_length") or 512)
    if model.get("_target_") == _MINIATURE.loader:
        return t5.measure(language.of_bytes(T5_SPECIAL))
    both = language.measure(qwen, model, PUBLIC), language.measure(t5, model, PUBLIC, "t5_tokenizer")
    return Measure(min(each.most for each in both), lambda caption: max(each.of(caption) for each in both))


def _foreign_folder(config: Config) -> tuple[str, str] | None:
    """Of Cosmos' models only the one that Anima was made from has neither further inputs nor learned positions."""
    is_anima = config.get("in_channels") == 16 and not config.get("extra_pos_embed_type", "learnable")
    return None if is_anima else ("a model of Cosmos that is no Anima, which is not supported", "use Anima")


_ANIMA = Row(
    name="anima",
    title="Anima",
    short="Anima",
    options=("anima",),
    loader="loralab.models.families.anima.load",
    parts={
        "transformer": Part("lora_unet", "transformer", "diffusers.CosmosTransformer3DModel"),
        "text_encoder": Part("lora_te", "text encoder", "transformers.Qwen3Model"),
        "text_conditioner": Part("lora_unet_llm_adapter", "text conditioner", "diffusers.AnimaTextConditioner"),
    },
    targets=targets,
    architecture=ANIMA,
    measure=_measure,
    scheduler=SCHEDULER,
    predictions=("flow",),
    bucket_step=16,  # tokens of two by two latent cells
    config={"_class_name": "CosmosTransformer3DModel"},
    file_parts={
        "transformer": "model.diffusion_model.",
        "text_encoder": "text_encoders.qwen3_06b.transformer.",
        "text_conditioner": "model.diffusion_model.llm_adapter.",
        "vae": "vae.",
    },
    in_parts=True,
    file_has=("model.diffusion_model.llm_adapter.",),
    folder_foreign=_foreign_folder,
    file_tensors=tensors_of,
    file_key=key_of,
    adapter_has=r"(^|[._])blocks[._]\d+[._]((self|cross)_attn[._]\w+_proj|mlp[._]layer|adaln_modulation)"
    r"|^(transformer\.|base_model\.model\.)?transformer_blocks\.\d+\.(attn[12]\.to_|norm[123]\.linear)"
    r"|llm_adapter|^text_conditioner\.",
    versions={"flow": "anima"},
    version_starts="anima",
    architectures={"flow": "anima-preview"},
    flag="qwen3",
)
_MINIATURE = replace(
    _ANIMA,
    name="tiny_anima",
    title="the miniature of Anima",
    options=("tiny_anima",),
    loader="loralab.models.families.anima.miniature",
    architecture=MINIATURE,
)
register(replace(_ANIMA, miniatures=(_MINIATURE,)))


def load(
    base: str,
    *,
    vae: str | None = None,
    text_encoder: str | None = None,
    tokenizer: str | None = None,
    t5_tokenizer: str | None = None,
    max_token_length: AtLeastOne = 512,
    flow_shift: Positive | None = None,
    resolution: Pixels = 1024,
    gradient_checkpointing: bool | AtLeastOne = False,
    attention: Literal["auto", "sdpa", "xformers", "eager"] = "auto",
    kernels: Literal["auto", "torch"] = "auto",
    dtype: DType = "auto",
    offload: Offload = 0,
    quantize: Quantize | None = None,
) -> Anima:
    """An Anima model from a diffusers folder, a Hub id, or a single file, of the transformer and the text conditioner
    alone or with the others.

    `vae`, `text_encoder`, `tokenizer`, `t5_tokenizer`: others than those of the base, or where it has none; files,
    folders or Hub ids. `flow_shift`: of the sigmas that pictures are sampled at; None: the base's own. `dtype` is of
    the transformer, the text encoder and the text conditioner; the VAE stays in fp32.
    """
    from loralab.models.flow import set_attention
    from loralab.models.load import load_base, prepare
    from loralab.models.tokenizer import load_tokenizer

    loaded = load_base("anima", base, vae, dtype=dtype, text_encoder=text_encoder)
    places = (PUBLIC, text_encoder, tokenizer)
    qwen = load_tokenizer(loaded, tokenizer, *places)
    t5 = load_tokenizer(loaded, t5_tokenizer, *places, kind="t5_tokenizer", reader="text_conditioner")
    prepare(loaded, kernels, gradient_checkpointing, quantize, dtype, offload)
    set_attention(loaded, attention)
    return _family(loaded, (qwen, t5), max_token_length, flow_shift, resolution)


def miniature(
    *,
    seed: Count = 0,
    max_token_length: AtLeastOne = 512,
    flow_shift: Positive | None = None,
    resolution: Pixels = 64,
    gradient_checkpointing: bool | AtLeastOne = False,
    attention: Literal["auto", "sdpa", "xformers", "eager"] = "auto",
    kernels: Literal["auto", "torch"] = "auto",
    dtype: DType = "auto",
    offload: Offload = 0,
) -> Anima:
    """A miniature with weights drawn from `seed`, whose tokens are bytes: runs every step of Anima's training offline,
    in seconds; it draws only noise. See `load`."""
    from loralab.diffusion.process import process
    from loralab.models.flow import set_attention
    from loralab.models.load import prepare, random_base

    loaded = random_base(_ANIMA, f"miniature-anima-{seed}", seed, MINIATURE, process("flow"), dtype)
    tokenizers = language.of_bytes(), language.of_bytes(T5_SPECIAL)
    prepare(loaded, kernels, gradient_checkpointing, None, dtype, offload)
    set_attention(loaded, attention)
    return _family(loaded, tokenizers, max_token_length, flow_shift, resolution)


def _family(
    base: Base, tokenizers: tuple[Tokenizer, Tokenizer], limit: int, flow_shift: float | None, resolution: int
) -> Anima:
    from loralab.models.families.anima.model import Anima
    from loralab.models.families.anima.text import Conditioner
    from loralab.models.flow import shifted
    from loralab.models.text.causal import CausalText

    base.scheduler = shifted(base.scheduler, flow_shift)
    (qwen, t5), frames = tokenizers, _frames(limit)
    text = CausalText(base.modules["text_encoder"], qwen, frames[0])
    conditioner = Conditioner(base.modules["text_conditioner"], t5, frames[1], text)
    return Anima(base, {"text_encoder": text, "text_conditioner": conditioner}, resolution)
