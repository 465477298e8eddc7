"""The metrics that a run will end with, by its settings: what a search can go by."""

from __future__ import annotations

from collections.abc import Iterator

from loralab.callbacks import prompts
from loralab.errors import UserError
from loralab.schema.tree import Tree, get
from loralab.scorers.scorer import SETTING as SCORER
from loralab.scorers.scores import DIVERSITY, IMAGES, PROMPT

LOSS, VALIDATION = "loss", "validation/loss"


def metrics(tree: Tree) -> Iterator[str]:
    """Their names."""
    yield LOSS
    if is_validated(tree):
        yield VALIDATION
    if get(tree, SCORER) is not None:
        yield from (IMAGES, PROMPT)
        if _draws_several_seeds(tree):
            yield DIVERSITY


def is_validated(tree: Tree) -> bool:
    images = get(tree, "data.validation.split") or get(tree, "data.validation.folder")
    return bool(get(tree, "callbacks.validation.enabled") and images)


def _draws_several_seeds(tree: Tree) -> bool:
    """Whether a prompt is drawn twice, with seeds that differ."""
    given, usual = get(tree, "callbacks.samples.prompts"), get(tree, "callbacks.samples.seed")
    if get(tree, "callbacks.samples.seeds", 1) > 1:
        return True
    try:
        read = prompts.read(given)[0] if isinstance(given, (str, list)) else []
    except UserError:  # reported by rules
        return False
    seeds: dict[str, set[object]] = {}
    for prompt in read:
        kind = repr({**prompt, "seed": None})
        seeds.setdefault(kind, set()).add(prompt.get("seed", usual))
    return any(len(each) > 1 for each in seeds.values())
