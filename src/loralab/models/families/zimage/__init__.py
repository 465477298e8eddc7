"""Z-Image (arXiv 2511.22699): a rectified flow by a transformer over the tokens of an image and the states of Qwen3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from loralab.models.families.zimage.architecture import MINIATURE, SCHEDULER, Z_IMAGE
from loralab.models.families.zimage.names import key_of, targets
from loralab.models.frozen import DType, Offload, Quantize
from loralab.models.row import Config, Part, Row, register
from loralab.models.text import language
from loralab.models.text.tokens import Measure
from loralab.schema.ranges import AtLeastOne, Count, Pixels, Positive

if TYPE_CHECKING:
    from torch import Tensor

    from loralab.models.families.zimage.model import ZImage

PUBLIC = "Tongyi-MAI/Z-Image-Turbo"
"""Whose tokenizer is used with files that come without one."""
LAYER = -2
"""Of Qwen3's hidden_states, the one that is read."""


def _measure(model: Mapping[str, Any]) -> Measure:
    frame = language.Frame(model.get("max_token_length") or 512, language.CHAT)
    if model.get("_target_") == _MINIATURE.loader:
        return frame.measure(language.of_bytes())
    return language.measure(frame, model, PUBLIC)


def _foreign(config: Config) -> tuple[str, str] | None:
    edits = config.get("siglip_feat_dim") is not None
    return ("a Z-Image that reads images, too", "use Z-Image or Z-Image-Turbo") if edits else None


def _tensors(row: Row, part: str, state: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    from loralab.models.families.zimage.model import tensors_of

    return tensors_of(row, part, state, config)


_Z_IMAGE = Row(
    name="zimage",
    title="Z-Image",
    short="Z-Image",
    options=("zimage", "zimage_turbo"),
    loader="loralab.models.families.zimage.load",
    parts={
        "transformer": Part("lora_unet", "transformer", "diffusers.ZImageTransformer2DModel"),
        "text_encoder": Part("lora_te", "text encoder", "transformers.Qwen3Model"),
    },
    targets=targets,
    architecture=Z_IMAGE,
    measure=_measure,
    scheduler=SCHEDULER,
    predictions=("flow",),
    bucket_step=16,  # tokens of two by two latent cells
    config={"_class_name": "ZImageTransformer2DModel"},
    folder_foreign=_foreign,
    file_parts={
        "transformer": "model.diffusion_model.",
        "text_encoder": "text_encoders.qwen3_4b.transformer.",
        "vae": "vae.",
    },
    in_parts=True,
    file_has=("model.diffusion_model.cap_pad_token",),
    file_tensors=_tensors,
    file_key=key_of,
    adapter_has=r"(^|[._])layers[._]\d+[._](attention[._](to_|qkv|out)|feed_forward[._]w[123]|adaLN_modulation)",
    versions={"flow": "z_image"},
    version_starts="z",
    architectures={"flow": "Z-Image"},
)
_MINIATURE = replace(
    _Z_IMAGE,
    name="tiny_zimage",
    title="the miniature of Z-Image",
    options=("tiny_zimage",),
    loader="loralab.models.families.zimage.miniature",
    architecture=MINIATURE,
)
_EMBEDDED = replace(_Z_IMAGE, name="tiny_flow", title="the embedded flow model", options=("tiny_flow",), loader="")
register(replace(_Z_IMAGE, miniatures=(_MINIATURE, _EMBEDDED)))


def load(
    base: str,
    *,
    vae: str | None = None,
    text_encoder: str | None = None,
    tokenizer: str | None = None,
    max_token_length: AtLeastOne = 512,
    flow_shift: Positive | None = None,
    resolution: Pixels = 1024,
    gradient_checkpointing: bool | AtLeastOne = False,
    attention: Literal["auto", "sdpa", "xformers", "eager"] = "auto",
    kernels: Literal["auto", "torch"] = "auto",
    dtype: DType = "auto",
    offload: Offload = 0,
    quantize: Quantize | None = None,
) -> ZImage:
    """A Z-Image model from a diffusers folder, a Hub id, or a single file, of the transformer alone or with the others.

    `vae`, `text_encoder`, `tokenizer`: others than those of the base, or where it has none; files, folders or Hub ids.
    `flow_shift`: of the sigmas that pictures are sampled at; None: the base's own. `dtype` is of the transformer and
    the text encoder; the VAE stays in fp32.
    """
    from loralab.models.families.zimage.model import ZImage
    from loralab.models.flow import set_attention, shifted
    from loralab.models.load import load_base, prepare
    from loralab.models.text.causal import CausalText
    from loralab.models.tokenizer import load_tokenizer

    loaded = load_base("zimage", base, vae, dtype=dtype, text_encoder=text_encoder)
    loaded.scheduler = shifted(loaded.scheduler, flow_shift)
    frame = language.Frame(max_token_length, language.CHAT)
    tokens = load_tokenizer(loaded, tokenizer, PUBLIC, text_encoder)
    text = CausalText(loaded.text_encoders["text_encoder"], tokens, frame, LAYER)
    prepare(loaded, kernels, gradient_checkpointing, quantize, dtype, offload)
    set_attention(loaded, attention)
    return ZImage(loaded, {"text_encoder": text}, resolution)


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
) -> ZImage:
    """A miniature with weights drawn from `seed`, whose tokens are bytes: runs every step of its training offline, in
    seconds; it draws only noise. See `load`."""
    from loralab.diffusion.process import process
    from loralab.models.families.zimage.model import ZImage
    from loralab.models.flow import set_attention, shifted
    from loralab.models.load import prepare, random_base
    from loralab.models.text.causal import CausalText

    loaded = random_base(_Z_IMAGE, f"miniature-zimage-{seed}", seed, MINIATURE, process("flow"), dtype)
    loaded.scheduler = shifted(loaded.scheduler, flow_shift)
    frame = language.Frame(max_token_length, language.CHAT)
    text = CausalText(loaded.text_encoders["text_encoder"], language.of_bytes(), frame, LAYER)
    prepare(loaded, kernels, gradient_checkpointing, None, dtype, offload)
    set_attention(loaded, attention)
    return ZImage(loaded, {"text_encoder": text}, resolution)
