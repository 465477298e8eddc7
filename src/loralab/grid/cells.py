"""The pictures of a grid: what decides each, and where they are on the sheet."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from itertools import product

from loralab.callbacks.prompts import Prompt
from loralab.grid.choose import Checkpoint

BASE = "base model"


@dataclass(frozen=True)
class Cell:
    """One picture. Of the base model alone there is no checkpoint, and the strength is 0."""

    prompt: Prompt
    checkpoint: Checkpoint | None = None
    strength: float = 0.0

    def settings(self, base: Mapping[str, str]) -> str:
        """All that decides the picture, as JSON. base: of the base model and of how it computes."""
        adapter = {"adapter": self.checkpoint.digest, "strength": self.strength} if self.checkpoint else {}
        return json.dumps({**base, **adapter, **asdict(self.prompt)}, sort_keys=True)

    def key(self, base: Mapping[str, str]) -> str:
        """A name for the picture's file, the same for the same settings."""
        return blake2b(self.settings(base).encode("utf8", "surrogatepass"), digest_size=12).hexdigest()

    def described(self, base: str) -> str:
        """The settings in the form of web UIs, whose prompts name adapters. base: what the model is called."""
        head, line, rest = self.prompt.described().partition("\nNegative prompt: ")
        adapter = f" <lora:{self.checkpoint.path.stem}:{self.strength:g}>" if self.checkpoint else ""
        return f"{head}{adapter}{line}{rest}, Model: {base}"


@dataclass(frozen=True)
class Sheet:
    """The pictures as a table."""

    title: str
    """What all have in common."""
    columns: list[str]
    rows: dict[str, list[Cell]]


def sheet(checkpoints: Sequence[Checkpoint], strengths: Sequence[float], prompts: Sequence[Prompt], base: str) -> Sheet:
    """The base model, then checkpoints by strengths, as columns, with a row for each prompt; of one prompt alone the
    checkpoints are rows, where both they and the strengths are several."""
    names, texts, shared = _of_checkpoints(checkpoints), *_of_prompts(prompts)
    scales = [f"strength {strength:g}" for strength in strengths]
    common = [f"{BASE} {base}", *_common(checkpoints), *(scales if len(scales) == 1 else []), *shared]
    title = " · ".join(common)
    if len(prompts) == 1 < len(strengths) and len(checkpoints) > 1:
        rows = {
            name: [Cell(prompts[0]), *(_cell(prompts[0], checkpoint, strength) for strength in strengths)]
            for name, checkpoint in zip(names, checkpoints, strict=True)
        }
        return Sheet(title, [BASE, *scales], rows)
    several = scales if len(scales) > 1 else [""]
    columns = ["\n".join(filter(None, (name, scale))) or "adapter" for name in names for scale in several]
    pairs = [*product(checkpoints, strengths)]
    rows = {
        text: [Cell(prompt), *(_cell(prompt, *pair) for pair in pairs)]
        for text, prompt in zip(texts, prompts, strict=True)
    }
    return Sheet(title, [BASE, *columns], rows)


def _cell(prompt: Prompt, checkpoint: Checkpoint, strength: float) -> Cell:
    return Cell(prompt, checkpoint, strength) if strength else Cell(prompt)


def _of_checkpoints(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """The names of checkpoints: their runs and times, as far as these differ."""
    sources, times = {each.source for each in checkpoints}, {each.time for each in checkpoints}
    return [
        "\n".join(part for part, several in ((each.source, len(sources) > 1), (each.time, len(times) > 1)) if several)
        for each in checkpoints
    ]


def _common(checkpoints: Sequence[Checkpoint]) -> Iterator[str]:
    """What all checkpoints have in common."""
    for values in ({each.source for each in checkpoints}, {each.time for each in checkpoints}):
        if len(values) == 1:
            yield from filter(None, values)


_WORDS: dict[str, Callable[[Prompt], str]] = {
    "seed": lambda prompt: f"seed {prompt.seed}",
    "prompt": lambda prompt: prompt.prompt,
    "negative": lambda prompt: f"negative: {prompt.negative}" if prompt.negative else "",
    "size": lambda prompt: f"{prompt.width}×{prompt.height}",
    "steps": lambda prompt: f"{prompt.steps} sampling steps",
    "guidance": lambda prompt: f"guidance {prompt.guidance:g}",
}


def _of_prompts(prompts: Sequence[Prompt]) -> tuple[list[str], list[str]]:
    """A text for each prompt of the settings in which they differ, and those that all have in common."""
    differing = [name for name, words in _WORDS.items() if len({*map(words, prompts)}) > 1] or ["prompt"]
    texts = ["\n".join(_WORDS[name](prompt) for name in differing) for prompt in prompts]
    return texts, [*filter(None, (words(prompts[0]) for name, words in _WORDS.items() if name not in differing))]
