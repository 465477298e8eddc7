"""A model family as it is known before any of its code or weights are loaded."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from loralab.models.checkpoint import Contents
from loralab.models.target import Target
from loralab.models.text.tokens import Measure

if TYPE_CHECKING:
    from torch import Tensor

Config = dict[str, Any]
"""What diffusers or transformers builds a module from."""
VAE_STARTS = ("first_stage_model.", "vae.")
"""How the names of a VAE's tensors begin in a single file."""
Table = Mapping[str, list[Target]]
"""The modules that can be adapted, by part."""


class Part(NamedTuple):
    """A module of a model that can have adapters."""

    prefix: str
    """What the names of its modules begin with in a file of the kohya layout."""
    words: str
    module: str
    """The dotted name of its class, in diffusers or transformers."""


def latent_channels(vae: Mapping[str, Any]) -> int | None:
    """Those of a VAE with this config."""
    return vae.get("latent_channels", vae.get("z_dim"))


class Blocks(NamedTuple):
    """How the list of a UNet's blocks is made up, by which ranks and rates are given per block."""

    first: int
    down: int
    middle: int
    up: int
    last: int


def _plain_tensors(row: Row, part: str, state: dict[str, Tensor], config: Config) -> dict[str, Tensor]:
    prefix = row.file_parts[part]
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def _plain_config(row: Row, part: str, shapes: Mapping[str, Sequence[int]]) -> Config:
    return row.architecture[part]


def _plain_key(row: Row, part: str, path: str, config: Config) -> tuple[str, int | None]:
    return f"{row.file_parts[part]}{path}.weight", None


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
    architecture: Mapping[str, Config]
    """Configs by part and of the "vae": of single files, which have none."""
    measure: Callable[[Mapping[str, Any]], Measure]
    """How captions are counted, without a model, under the settings of a composed `model` node."""
    public: Mapping[str, Config] | None = None
    """Configs of a model that has every module which a file may name, where the architecture has not."""
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    """Config of the diffusers scheduler of models that come without one."""
    predictions: tuple[str, ...] = ("epsilon", "v_prediction")
    """What its models may predict (Process.prediction), the usual first."""
    cell: int = 8
    """Pixels along the side of one latent cell."""
    bucket_step: int = 8
    """The sides of images must be multiples of it, pixels."""
    encoder_layer: int | None = None
    """The layer of its text encoders, counted from the end, where it is not a setting."""
    blocks: Blocks | None = None
    miniatures: tuple[Row, ...] = ()
    """Models of the family that have a title of their own; known by their width alone."""

    # how files are recognised and read
    config: Mapping[str, Any] = field(default_factory=dict)
    """What the denoiser's config says in a diffusers model."""
    file_parts: Mapping[str, str] = field(default_factory=dict)
    """How the names of each part and of the "vae" begin in a single file."""
    in_parts: bool = False
    """Whether its parts also come in files of their own: the denoiser's names may then begin with less."""
    file_has: tuple[str, ...] = ()
    """How names begin of which a single file of the family, and of no family after it, has one."""
    file_context: str = ""
    """Its tensor in a single file that shows `context`."""
    file_foreign: Callable[[Contents], tuple[str, str] | None] = lambda _: None
    """What a single file is that looks like one of the family and is none, and what to do."""
    folder_foreign: Callable[[Config], tuple[str, str] | None] = lambda _: None
    """The same of a diffusers folder, by the denoiser's config."""
    file_latents: str = ""
    """Its tensor (out, in, …) in a single file that shows how many channels latents have."""
    flow_channels: tuple[int, ...] = ()
    """A single file with latents of so many channels predicts a flow."""
    file_config: Callable[[Row, str, Mapping[str, Sequence[int]]], Config] = _plain_config
    """(row, part or "vae", shapes of a single file's tensors) → the config of the part."""
    file_tensors: Callable[[Row, str, dict[str, Tensor], Config], dict[str, Tensor]] = _plain_tensors
    """(row, part, a single file's tensors, config of the part) → the part's, under the names of its class."""
    file_key: Callable[[Row, str, str, Config], tuple[str, int | None]] = _plain_key
    """(row, part, path of a module, config of the part) → the name of its weight in a single file, and which third of
    it where the file keeps queries, keys and values in one."""
    adapter_has: str = ""
    """A pattern of keys, or of a part and a dot, that an adapter file of the family, and of no family after it, has."""
    context: int | None = None
    """Width of the text states that its denoiser reads, by which files without such names are told apart."""

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
        return self.targets(self.public or self.architecture)

    def denoiser_start(self, names: Collection[str]) -> str | None:
        """How the names of its denoiser begin in a single file with these names; None where the file is of no model of
        a family that comes in parts."""
        usual = self.file_parts.get(self.denoiser, "")
        marks = tuple(mark.removeprefix(usual) for mark in self.file_has if mark.startswith(usual))
        starts = (usual, usual.partition(".")[2], "net.", "") if self.in_parts else ()
        return next(
            (start for start in starts if any(name.startswith(start + m) for name in names for m in marks)), None
        )

    def is_of_adapter(self, keys: Iterable[str], part: str | None = None) -> bool:
        """Whether an adapter file with these keys may be of the family. part: the one that all its keys are of."""
        if part is None:
            return not self.adapter_has or any(map(re.compile(self.adapter_has).search, keys))
        return part in self.parts and self.is_of_adapter([*keys, f"{part}."])


FAMILIES: dict[str, Row] = {}
"""By name; those that are told by less come later. Filled by loralab.models.registry."""


def register(row: Row) -> Row:
    """Adds a family; returns its row."""
    rows = sorted([row, *FAMILIES.values()], key=lambda row: (bool(row.adapter_has), len(row.config)), reverse=True)
    FAMILIES.clear()
    FAMILIES.update({row.name: row for row in rows})
    return row
