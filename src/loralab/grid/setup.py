"""The base model and the prompts of a grid, from the settings of the runs and the overrides of the command."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any

from loralab.callbacks.prompts import Prompt, read
from loralab.command.prepare import prepare
from loralab.errors import Problem, UserError, user_error
from loralab.grid.sources import FILE, Source
from loralab.models.checkpoint import examine
from loralab.models.registry import of_model, with_miniatures
from loralab.report.pictures import pictures
from loralab.schema.compose import Composed
from loralab.schema.settings import Settings
from loralab.shared import base_of

MODEL, SAMPLES, PRECISION = "model.", "callbacks.samples.", "trainer.precision"
SAMPLER = tuple(field.name for field in fields(Prompt) if field.name != "prompt")
CARRIED = (PRECISION, *(f"{SAMPLES}{name}" for name in SAMPLER))
"""Settings of a run that its pictures depend on, beside those of the model."""
TAKEN = ("model", *CARRIED, "trainer", "trainer.accelerator", "allow")
"""Overrides that a grid takes, beside those below the model."""
FASTER = {"gradient_checkpointing": False}
"""What only training needs."""


class Setup:
    """The configuration that a grid is drawn with, checked. Raises a UserError for what contradicts or is missing."""

    def __init__(self, sources: list[Source], overrides: list[str]) -> None:
        if strange := [word for word in overrides if not _is_taken(_key(word))]:
            valid = "valid: model=…, model.base=…, callbacks.samples.steps=… and the like, trainer.precision=…"
            raise UserError(*(Problem(_key(word), "has no effect on a grid", valid) for word in strange))
        self.overrides = overrides
        lines = [self._lines(source) for source in sources]
        composed = {each: prepare([*each]).composed for each in dict.fromkeys(lines)}
        self.by_source = [composed[each] for each in lines]
        self.tree = self.by_source[0].tree
        self.model = _model(self.by_source[0])
        if found := list(self._contradictions(sources)):
            raise UserError(*found)

    @property
    def precision(self) -> str:
        return self.tree["trainer"]["precision"]

    @property
    def accelerator(self) -> str:
        return self.tree["trainer"]["accelerator"]

    @cached_property
    def base(self) -> dict[str, str]:
        """What decides every picture: the model by its name, its settings and files by a digest, as a picture may be
        shown to others; and the precision."""
        name = Path(str(self.model.get("base") or self.by_source[0].choices["model"])).name
        told = json.dumps(base_of({"model": self.model}), sort_keys=True).encode("utf8", "surrogatepass")
        return {"model": name, "model_id": blake2b(told, digest_size=16).hexdigest(), "precision": self.precision}

    def prompts(self, sources: list[Source], given: list[dict[str, Any]], seeds: list[int]) -> list[Prompt]:
        """The prompts given, else those that the runs have drawn; for each of the seeds, where any are given."""
        if given:
            found = [self._prompt(entry, self.by_source[0]) for entry in given]
        else:
            pairs = zip(sources, self.by_source, strict=True)
            found = [prompt for source, composed in pairs for prompt in self._own(source, composed)]
        if not found:
            words = f"there are no sample prompts in {' and '.join(source.title for source in sources)}"
            raise user_error("--prompts", words, "give a prompt or a file of prompts")
        each = [replace(prompt, seed=seed) for prompt in found for seed in seeds or [prompt.seed]]
        return [*dict.fromkeys(each)]

    def too_long(self, prompts: Iterable[Prompt]) -> Iterator[Problem]:
        """A problem for each prompt of which the text encoder would not read the end."""
        if not (row := of_model(self.model)):
            return
        measure = row.measure(self.model)
        for text in dict.fromkeys(prompt.prompt for prompt in prompts):
            count, fit = measure.of(text)
            if fit.lost:
                found = (
                    f"'{text:.60}…' has {count} tokens, of which {fit.lost} are cut off; the limit is {measure.most}"
                )
                yield Problem("--prompts", found, "shorten it, or raise model.max_token_length")

    def _lines(self, source: Source) -> tuple[str, ...]:
        """The overrides that compose to the settings of a source, those of the command over them."""
        given = {_key(word) for word in self.overrides}
        if "model" not in given:
            _check_told(source, given)
        known = Settings({"model": source.model or ""}, {k: v for k, v in source.settings.items() if _is_kept(k)})
        for key in given:
            known.without(key)
        return (*known.lines(), *self.overrides)

    def _contradictions(self, sources: list[Source]) -> Iterator[Problem]:
        """What the runs' base models differ in."""
        first = self.model
        for source, composed in zip(sources, self.by_source, strict=True):
            options = [each.choices["model"] for each in (self.by_source[0], composed)]
            if options[0] != options[1]:
                words = f"differs between the runs ({sources[0].title}: {options[0]}, {source.title}: {options[1]})"
                yield Problem("model", words, "draw a grid for each")
                return
            model = _model(composed)
            for key in dict.fromkeys([*first, *model]):
                if first.get(key) != model.get(key):
                    one, other = f"{sources[0].title}: {first.get(key)}", f"{source.title}: {model.get(key)}"
                    remedy = f"draw a grid for each, or add model.{key}=VALUE"
                    yield Problem(f"model.{key}", f"differs between the runs ({one}, {other})", remedy)

    def _prompt(self, entry: dict[str, Any], composed: Composed) -> Prompt:
        common = {name: composed.tree["callbacks"]["samples"][name] for name in SAMPLER}
        side = {name: common[name] or composed.tree["model"]["resolution"] for name in ("width", "height")}
        return Prompt(**{**common, **side, **entry})

    def _own(self, source: Source, composed: Composed) -> list[Prompt]:
        """Those of the pictures that a run has drawn last, else those in its settings."""
        if source.run is None:
            return []
        drawn = pictures(source.run.folder)[0]
        last = max((picture.step for picture in drawn), default=0)
        found = [prompt for p in drawn if p.step == last and (prompt := Prompt.parse(p.prompt))]
        if found:
            wanted = {_key(word).removeprefix(SAMPLES) for word in self.overrides if _key(word).startswith(SAMPLES)}
            asked = {name: getattr(self._prompt({"prompt": ""}, composed), name) for name in wanted}
            return [replace(prompt, **asked) for prompt in found]
        given = source.settings.get(f"{SAMPLES}prompts")
        try:
            return [self._prompt(entry, composed) for entry in read(given)[0]] if given else []
        except UserError:  # its file is not there any more
            return []


def _check_told(source: Source, given: set[str]) -> None:
    """Raises a UserError where the base model of a file alone is not known; given: the keys of the overrides."""
    place, name = next(iter(source.files.values())), source.metadata.get("ss_sd_model_name", "")
    trained = f", trained on '{name}'" if name not in ("", "None") else ""
    if source.model is None:
        raise user_error(str(place), f"does not tell its base model{trained}", f"add {_suggested(place)}")
    if source.run is None and "model.base" not in given and _own_base(source.model) not in (None, name):
        found = f"was trained with model={source.model}{trained}, but does not tell where that is"
        raise user_error(str(place), found, "add model.base=PATH")


def _model(composed: Composed) -> dict[str, Any]:
    """The settings of the base model, without what only training needs."""
    model = composed.tree["model"]
    return model | {key: value for key, value in FASTER.items() if key in model}


def _is_taken(key: str) -> bool:
    return key in TAKEN or key.startswith(MODEL)


def _is_kept(key: str) -> bool:
    """Whether a setting of a run counts for its pictures."""
    return key in CARRIED or (key.startswith(MODEL) and not key.removeprefix(MODEL).startswith("_"))


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _own_base(option: str) -> str | None:
    """What the base model of an option is called; None for one that is made, not loaded."""
    base = prepare([f"model={option}"]).composed.tree["model"].get("base")
    return Path(base).name if base else None


def _suggested(path: Path) -> str:
    """The options of the families that a file may be of, by its names and the width of the text that it reads."""
    inside = examine(path, FILE)
    rows = [row for row in with_miniatures() if row.is_of_adapter(inside.names)]
    rows = [row for row in rows if row.adapter_has == rows[0].adapter_has]
    reads = re.compile(r"attn2[._]to_[kv]\.(lora_down|lora_A|lora\.down)\b")
    widths = {shape[1] for name, shape in inside.shapes.items() if reads.search(name) and len(shape) > 1}
    rows = [row for row in rows if row.context in widths] or rows
    options = dict.fromkeys(option for row in rows for option in row.options)
    return f"{' or '.join(f'model={option}' for option in options)}, and model.base=PATH"
