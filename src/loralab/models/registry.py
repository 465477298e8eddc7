"""The model families: what is known of each before any of its code or weights are loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

from loralab.models.architecture import MINIATURE_SDXL, SD1, SD2, SDXL, TINY, Architecture, Config
from loralab.models.names import Target, unet_and_clip_targets

Table = Mapping[str, list[Target]]
"""The modules that can be adapted, by part."""


class Part(NamedTuple):
    """A module of a model that can have adapters."""

    prefix: str
    """What the names of its modules begin with in a file of the kohya layout."""
    words: str


class Blocks(NamedTuple):
    """How the list of a UNet's blocks is made up, by which ranks and rates are given per block."""

    first: int
    down: int
    middle: int
    up: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model family."""

    name: str
    title: str
    short: str
    """The title in lists of families."""
    options: tuple[str, ...]
    """Of the group conf/model."""
    loader: str
    """The `_target_` of those options."""
    parts: dict[str, Part]
    """By name, which is also that of its folder in a diffusers model; the denoiser first."""
    targets: Callable[[Mapping[str, Mapping[str, Any]]], Table]
    """The modules that adapters may sit on, of a model with these configs by part."""
    public: Mapping[str, Config]
    """Configs by part of a model that has every module which a file may name."""
    predictions: tuple[str, ...] = ("epsilon", "v_prediction")
    """What its models may predict (Process.prediction), the usual first."""
    latent_channels: int = 4
    cell: int = 8
    """Pixels along the side of one latent cell."""
    bucket_step: int = 8
    """The sides of images must be multiples of it, pixels."""
    encoder_layer: int | None = None
    """The layer of its text encoders, counted from the end, where it is not a setting."""
    blocks: Blocks | None = None
    architecture: Architecture | None = None
    """Of single files in the original layout, which have no configs."""

    # how files are recognised
    config: Mapping[str, Any] = field(default_factory=dict)
    """What the denoiser's config says in a diffusers model."""
    file_prefix: str = "model.diffusion_model."
    """How the denoiser's names begin in a single file."""
    file_has: tuple[str, ...] = ()
    """How names begin of which a single file of the family, and of no family after it, has one."""
    file_text: Mapping[str, str] = field(default_factory=dict)
    """How the names of each text encoder begin in a single file."""
    adapter_has: str = ""
    """A pattern of keys that an adapter file of the family, and of no family after it, has."""
    context: int | None = None
    """Width of the text states that its UNet reads, by which files without such names are told apart."""

    # what files are told
    versions: Mapping[str, str] = field(default_factory=dict)
    """`ss_base_model_version` by prediction."""
    version_starts: str = ""
    """How other trainers' begin."""
    architectures: Mapping[str, str] = field(default_factory=dict)
    """`modelspec.architecture` by prediction."""
    flag: str = ""
    """The option of sd-scripts that stands for the family."""

    @property
    def denoiser(self) -> str:
        """The part that predicts."""
        return next(iter(self.parts))

    @property
    def text_encoders(self) -> list[str]:
        return list(self.parts)[1:]

    @cached_property
    def table(self) -> Table:
        """The modules that an adapter file may name."""
        return self.targets(self.public)

    def is_of_adapter(self, keys: Iterable[str], part: str | None = None) -> bool:
        """Whether an adapter file with these keys may be of the family. part: the one that all its keys are of."""
        if part is not None and part not in self.parts:
            return False
        return part == "text_encoder_2" or not self.adapter_has or any(map(re.compile(self.adapter_has).search, keys))


_UNET = Part("lora_unet", "UNet")


def _every_level(unet: Config) -> Config:
    """The same UNet with transformers on every level, which smaller ones may have."""
    levels = len(unet["block_out_channels"])
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",) * levels, "up_block_types": ("CrossAttnUpBlock2D",) * levels}
    return {**unet, **kinds}


_SD1 = Row(
    name="sd1",
    title="Stable Diffusion 1.x",
    short="SD 1.x",
    options=("sd15",),
    loader="loralab.models.sd.load",
    parts={"unet": _UNET, "text_encoder": Part("lora_te", "text encoder")},
    targets=partial(unet_and_clip_targets, original=False, prefixes={"text_encoder": "lora_te"}),
    # the names say nothing about widths: SD 1.x and 2.x in one, and smaller ones
    public={"unet": _every_level(SD1.unet), "text_encoder": {"num_hidden_layers": 24}},
    blocks=Blocks(0, 12, 1, 12, 0),
    architecture=SD1,
    file_has=("cond_stage_model.transformer.",),
    file_text={"text_encoder": "cond_stage_model.transformer.text_model."},
    context=768,
    versions={"epsilon": "sd_v1", "v_prediction": "sd_v1_v"},
    version_starts="sd_v1",
    architectures={"epsilon": "stable-diffusion-v1", "v_prediction": "stable-diffusion-v1"},
)
_SD2 = replace(
    _SD1,
    name="sd2",
    title="Stable Diffusion 2.x",
    short="SD 2.x",
    options=("sd2", "sd2_v"),
    architecture=SD2,
    config={"cross_attention_dim": 1024},
    file_has=("cond_stage_model.model.",),
    file_text={"text_encoder": "cond_stage_model.model."},
    context=1024,
    versions={"epsilon": "sd_v2", "v_prediction": "sd_v2_v"},
    version_starts="sd_v2",
    architectures={"epsilon": "stable-diffusion-v2-512", "v_prediction": "stable-diffusion-v2-768-v"},
    flag="v2",
)
_SDXL = Row(
    name="sdxl",
    title="SDXL",
    short="SDXL",
    options=("sdxl",),
    loader="loralab.models.sdxl.load",
    parts={
        "unet": _UNET,
        "text_encoder": Part("lora_te1", "text encoder"),
        "text_encoder_2": Part("lora_te2", "second text encoder"),
    },
    targets=partial(
        unet_and_clip_targets, original=True, prefixes={"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    ),
    public={"unet": SDXL.unet, **SDXL.text_encoders},
    bucket_step=32,  # its UNet halves latents twice
    encoder_layer=2,
    blocks=Blocks(1, 9, 3, 9, 1),
    architecture=SDXL,
    config={"addition_embed_type": "text_time"},
    file_has=("conditioner.embedders.1.", "model.diffusion_model.label_emb."),
    file_text={
        "text_encoder": "conditioner.embedders.0.transformer.text_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
    # more than one block in a transformer, too
    adapter_has=r"^lora_te[12]_|^text_encoder_2\.|^lora_unet_(input|output|middle)_|transformer_blocks[._][1-9]",
    context=2048,
    versions=dict.fromkeys(("epsilon", "v_prediction"), "sdxl_base_v1-0"),
    version_starts="sdxl",
    architectures=dict.fromkeys(("epsilon", "v_prediction"), "stable-diffusion-xl-v1-base"),
    flag="sdxl",
)

FAMILIES: dict[str, Row] = {row.name: row for row in (_SDXL, _SD2, _SD1)}
"""By name; those that are told by less come later."""

USUAL = _SD1
"""What a settings file or an adapter that names no family is of."""

TWO_ENCODERS = _SDXL
"""The family whose text encoders have layers of the same names."""

BLOCKS = tuple(dict.fromkeys(row.blocks for row in FAMILIES.values() if row.blocks))
"""Of the families that have a list of blocks."""

MINIATURES = (
    replace(_SD1, name="tiny", title="the embedded demo model", loader="", context=TINY["cross_attention_dim"]),
    replace(
        _SDXL,
        name="tiny_sdxl",
        title="the miniature of SDXL",
        options=("tiny_sdxl",),
        loader="loralab.models.miniature.sdxl",
        bucket_step=8,
        context=MINIATURE_SDXL.unet["cross_attention_dim"],
    ),
)
"""Models of a family that have a title of their own; by their width alone."""

REFINER = "conditioner.embedders.0.model."
"""How names begin that only a single file of SDXL's refiner has."""
REFINER_IS = "an SDXL refiner", "use the SDXL base model"


def register(row: Row) -> Row:
    """Adds a family from outside this package; returns its row."""
    others = dict(FAMILIES)
    FAMILIES.clear()
    FAMILIES.update({row.name: row, **others})
    return row


def of_model(model: Mapping[str, Any]) -> Row | None:
    """The family of a composed `model` node."""
    rows = [row for row in (*FAMILIES.values(), *MINIATURES) if row.loader == model.get("_target_")]
    return next((row for row in rows if row.name == model.get("family")), rows[-1] if rows else None)


def of_adapter(keys: Iterable[str], part: str | None = None) -> Row:
    """The family of an adapter file, as far as its keys show; part: the one that all its keys are of."""
    keys = list(keys)
    return next((row for row in FAMILIES.values() if row.is_of_adapter(keys, part)), USUAL)


def of_option(option: str | None) -> Row | None:
    """The family that an option of the group model loads."""
    return next((row for row in (*FAMILIES.values(), *MINIATURES) if option in row.options), None)


def named() -> str:
    """All families, for messages."""
    *names, last = [row.short for row in reversed(FAMILIES.values())]
    return f"{', '.join(names)} or {last}"
