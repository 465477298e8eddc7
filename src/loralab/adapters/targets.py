"""Where adapters sit, and what rank, alpha and learning rate each has."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

from loralab.errors import user_error
from loralab.models.target import Target
from loralab.schema.ranges import Positive, RankOrNone, Rate


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Lists with an entry for each of the denoiser's blocks, input to output (see Family.block_count)."""

    rank: list[RankOrNone] | None = None
    """0 = no adapter in that block."""
    alpha: list[Positive] | None = None
    conv_rank: list[RankOrNone] | None = None
    """Rank of k×k convolutions; null = adapter.conv_rank, else as `rank`."""
    conv_alpha: list[Positive] | None = None
    lr_factor: list[Rate] | None = None
    """Multiplies the denoiser's learning rate; 0 = frozen."""


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Settings of the modules whose `part.path`, e.g. `unet.mid_block.attentions.0.proj_in`, holds a match."""

    match: str
    """A regular expression, searched for."""
    rank: RankOrNone | None = None
    """0 = no adapter on them."""
    alpha: Positive | None = None
    lr: Rate | None = None


@dataclass(frozen=True, slots=True)
class Site:
    """One module that gets an adapter; None stands for what the adapter or the optimizer says."""

    part: str
    target: Target
    rank: int | None = None
    alpha: float | None = None
    lr: float | None = None
    lr_factor: float = 1.0
    group: str = ""
    """Name of its parameter group."""
    conv_rank: int | None = None
    """In site of `rank` where the module is a k×k convolution."""
    conv_alpha: float | None = None
    asked: bool = True
    """False where only the adapter file to start from asks for it."""

    @property
    def name(self) -> str:
        return self.target.kohya

    @property
    def path(self) -> str:
        return f"{self.part}.{self.target.path}"


class PartTargets(NamedTuple):
    """What a run does with a part."""

    adapted: bool
    lr: float | None
    """null where the optimizer's own rate counts."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Which modules are adapted. `unet` is the denoiser, whatever the family calls that part.

    A module's settings come from the first pattern that matches it, else from its block, else from its part. A pattern
    takes in modules of kinds that are switched off, too.
    """

    unet: bool = True
    text_encoder: bool = True
    text_encoder_2: bool | None = None
    """null = as text_encoder."""
    text_conditioner: bool = False
    """Of families that have one between text encoder and transformer."""
    unet_lr: Rate | None = None
    """null = optimizer.lr; 0 = frozen: the tensors are in the file and don't change."""
    text_encoder_lr: Rate | None = None
    text_encoder_2_lr: Rate | None = None
    """null = as text_encoder_lr."""
    text_conditioner_lr: Rate | None = None
    attention: bool = True
    feed_forward: bool = True
    projection: bool = True
    conv: bool | None = None
    """Everything in residual blocks and resamplers; null = where adapter.conv_rank is given."""
    in_out: bool = False
    """The first and last convolution, and the embeddings of the timestep and of sizes."""
    blocks: Blocks | None = None
    patterns: list[Pattern] = field(default_factory=list)
    loraplus_ratio: Positive | None = None
    """Learning rate of the tensors that start at zero, as a multiple of the others' (LoRA+)."""

    def __post_init__(self) -> None:
        """Blocks and patterns may be given as plain mappings, as a YAML writes them."""
        if isinstance(self.blocks, Mapping):
            object.__setattr__(self, "blocks", _built(Blocks, "targets.blocks", self.blocks))
        patterns = [
            _built(Pattern, f"targets.patterns.{i}", p) if isinstance(p, Mapping) else p
            for i, p in enumerate(self.patterns)
        ]
        object.__setattr__(self, "patterns", patterns)

    @cached_property
    def parts(self) -> dict[str, PartTargets]:
        """By part; further text encoders are as `text_encoder`, and a denoiser of another name as `unet`."""
        first = PartTargets(self.text_encoder, self.text_encoder_lr)
        second = PartTargets(
            first.adapted if self.text_encoder_2 is None else self.text_encoder_2,
            first.lr if self.text_encoder_2_lr is None else self.text_encoder_2_lr,
        )
        return {
            "unet": PartTargets(self.unet, self.unet_lr),
            "text_encoder": first,
            "text_encoder_2": second,
            "text_conditioner": PartTargets(self.text_conditioner, self.text_conditioner_lr),
        }

    def part(self, name: str) -> PartTargets:
        return self.parts.get(name) or self.parts["text_encoder" if name.startswith("text_encoder") else "unet"]

    def choose(
        self,
        table: Mapping[str, Sequence[Target]],
        block_count: int,
        conv: bool,
        also: Collection[str] = (),
    ) -> list[Site]:
        """The modules to adapt, of a table of those that can be, by part.

        `conv`: whether the adapter asks for convolutions. `also`: names that are taken whatever their kind, because an
        adapter file has them. Raises a UserError for a pattern that matches nothing, a list of another length than
        `block_count`, or nothing chosen at all.
        """
        if self.blocks:
            self._check_lengths(self.blocks, block_count)
        kinds = {"attention", "feed_forward", "projection", "conv", "in_out"}
        kinds = {kind for kind in kinds if (conv if getattr(self, kind) is None else getattr(self, kind))}
        expressions = [_compiled(i, pattern) for i, pattern in enumerate(self.patterns)]
        used: set[int] = set()
        sites = []
        for part in table:
            for target in table[part] if self.part(part).adapted else ():
                path = f"{part}.{target.path}"
                first = next((i for i, expression in enumerate(expressions) if expression.search(path)), None)
                if first is not None:
                    used.add(first)
                    sites.append(self._by_pattern(part, target, self.patterns[first]))
                elif target.kind in kinds or target.kohya in also:
                    sites.append(replace(self._by_block(part, target), asked=target.kind in kinds))
        self._check_patterns(used, table)
        if not sites:
            raise user_error("targets", "no module is selected", "enable a part or a kind of module")
        return sites

    def _by_pattern(self, part: str, target: Target, pattern: Pattern) -> Site:
        site = replace(self._by_block(part, target), group=f"{part}/{pattern.match}")
        if pattern.rank is not None:
            site = replace(site, rank=pattern.rank, conv_rank=pattern.rank)
        if pattern.alpha is not None:
            site = replace(site, alpha=pattern.alpha, conv_alpha=pattern.alpha)
        return site if pattern.lr is None else replace(site, lr=pattern.lr, lr_factor=1.0)

    def _by_block(self, part: str, target: Target) -> Site:
        site = Site(part, target, lr=self.part(part).lr, group=part)
        if self.blocks is None or target.block is None:
            return site
        given = {key: values[target.block] for key, values in vars(self.blocks).items() if values}
        group = f"{part}/block{target.block:02d}" if "lr_factor" in given else part
        return replace(site, **given, group=group)

    def _check_lengths(self, blocks: Blocks, block_count: int) -> None:
        for key, values in vars(blocks).items():
            if values and len(values) != block_count:
                found = f"has {len(values)} entries, but this model has {block_count} blocks"
                raise user_error(f"targets.blocks.{key}", found, f"give {block_count} entries, from input to output")

    def _check_patterns(self, used: set[int], table: Mapping[str, Sequence[Target]]) -> None:
        for i, pattern in enumerate(self.patterns):
            if i not in used:
                part = next((p for p in table if self.part(p).adapted and table[p]), None)
                example = (
                    f"change the expression: names look like {part}.{table[part][0].path}"
                    if part
                    else "enable a part: none is on"
                )
                found = f"'{pattern.match}' matches no module, or only modules that an earlier pattern matches"
                raise user_error(f"targets.patterns.{i}.match", found, example)


def _built(cls: type, setting: str, values: Mapping[str, Any]) -> Any:
    """A Blocks or Pattern from a mapping; raises a UserError for unknown keys."""
    known = [f.name for f in fields(cls)]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise user_error(f"{setting}.{unknown[0]}", "unknown setting", f"valid: {', '.join(known)}")
    if cls is Pattern and "match" not in values:
        raise user_error(f"{setting}.match", "missing", "give a regular expression, such as attn2")
    return cls(**values)


def _compiled(i: int, pattern: Pattern) -> re.Pattern[str]:
    try:
        return re.compile(pattern.match)
    except re.error as error:
        found = f"'{pattern.match}' is not a valid regular expression: {error}"
        raise user_error(f"targets.patterns.{i}.match", found, "write \\. for a dot, .* for anything") from None
