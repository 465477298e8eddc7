"""How often each tag occurs in the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from loralab.data.captions import Captions
from loralab.data.folders import Folder
from loralab.files import printable
from loralab.types import Item


def occurrences(items: Iterable[Item], folders: Sequence[Folder]) -> Counter[str]:
    """Tag → how often it occurs in the caption texts, each image counted as often as it is repeated.

    folders: by Item.source, with the caption rules of their images. Tags are those of the text as written, before
    wildcards and dropout.
    """
    counts: Counter[str] = Counter()
    for item in items:
        for tag in tags(item, folders[item.source].captions):
            counts[tag] += item.repeats
    return counts


def by_folder(items: Iterable[Item], folders: Sequence[Folder]) -> dict[str, Counter[str]]:
    """Folder name → tag → number of images with it: what `ss_tag_frequency` holds in a file's metadata."""
    found: dict[str, Counter[str]] = {}
    for item in items:
        found.setdefault(folder_name(item), Counter()).update(tags(item, folders[item.source].captions))
    return found


def folder_name(item: Item) -> str:
    """The name of the folder of an image, as text."""
    return printable(Path(item.path).parent.name)


def tags(item: Item, rules: Captions) -> list[str]:
    """The tags of an image's caption, without the separators of kept tags."""
    text = item.caption.split("\n")[0] if not rules.wildcards else item.caption.replace("\n", rules.separator)
    for marker in (rules.keep_tokens_separator, rules.secondary_separator):
        text = text.replace(marker, rules.separator) if marker else text
    return rules.split(text)
