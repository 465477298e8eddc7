"""Captions: from the text of a caption file to that for the text encoder.

The operations and their order are those of kohya-ss' sd-scripts:

1. prefix and suffix;
2. the whole caption dropped: by `dropout_rate`, or in every n-th epoch; nothing else happens to it then;
3. wildcards: one line of several drawn, then `{a|b}` resolved (in prefix and suffix too), `{{` and `}}` are literal
   braces. Else only the first line is used;
4. tags (only where a tag option is used; the text is untouched otherwise): split at the separator and stripped; the
   first `keep_tokens` are kept, or the part before `keep_tokens_separator` and that after a second one; the token
   warm-up cuts the others; they are shuffled; each may be dropped; all are joined with ", ";
5. the secondary separator is replaced by the separator.

Deviations from sd-scripts, where its behaviour is surprising:

- A prefix stays in front and a suffix at the end, and `keep_tokens` counts the caption's own tags, in every case.
  Affixes that look like tags are joined with ", " instead of a space: those that contain the separator, and any affix
  of a list of tags, unless it belongs to its neighbour grammatically ("a photo of", "in the rain").
- `dropout_every_n_epochs` drops in the epochs n, 2n, … counted from 1, and never before the first.
- Empty tags are removed in every case, and are not counted by `keep_tokens`.
- `keep_tokens_separator` never reaches the text encoder, even if nothing is shuffled or an affix contains it.
- Only line breaks end a line of a caption: Unicode's other separators do not.
"""

from __future__ import annotations

import os
import random
import re
from dataclasses import dataclass, replace
from typing import Literal

from loralab.data.sources.mounts import opened
from loralab.errors import user_error
from loralab.schema.automatic import CAPTIONS_VARY
from loralab.schema.ranges import Count, Share

LONGEST_FILE = 1 << 16
"""Bytes; a longer file is not a caption."""

_LEANING = frozenset(
    ("a", "an", "and", "as", "at", "by", "for", "from", "in", "into", "of", "on", "or", "the", "to", "with")
)
"""Words that belong to what follows or precedes them: an affix with one at the seam is joined with a space."""


@dataclass(frozen=True, slots=True)
class Captions:
    """The caption rules: a pure function of text, generator, epoch and step. The module's docstring gives their order.

    extension: of caption files, with or without the dot.
    dropout_rate: probability that the caption is replaced by the empty one, per sample and epoch.
    dropout_every_n_epochs: all captions are empty in epochs n, 2n, … counted from 1; 0 = never.
    tag_dropout_rate: probability that each tag beyond the kept ones is dropped.
    shuffle: the tags beyond the kept ones come in another order for each sample and epoch.
    keep_tokens: number of first tags that stay in front and are never dropped.
    keep_tokens_separator: where a caption has it, the part before it is kept instead; a second one marks a kept tail.
    separator: between tags. secondary_separator: between tags that stay together; replaced by the separator in the end.
    trigger: a word, or several tags, that every caption (but a dropped one) has: put in front where absent, and kept.
    wildcards: `{a|b}` draws one of them; of several lines one is drawn.
    token_warmup_steps: optimizer steps over which the tags beyond the kept ones grow from token_warmup_min to all.
    overlong: what is done with images whose captions have more tokens than model.max_token_length.
    token_buckets: captions of one chunk of 75 tokens are batched apart from longer ones.
    """

    extension: str = ".txt"
    dropout_rate: Share = 0.0
    dropout_every_n_epochs: Count = 0
    tag_dropout_rate: Share = 0.0
    shuffle: bool = False
    keep_tokens: Count = 0
    keep_tokens_separator: str | None = None
    separator: str = ","
    secondary_separator: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    trigger: str | None = None
    wildcards: bool = False
    token_warmup_steps: Count = 0
    token_warmup_min: Count = 1
    overlong: Literal["truncate", "skip", "error"] = "truncate"
    token_buckets: bool = False

    def __post_init__(self) -> None:
        if not self.separator.strip():
            raise user_error("data.captions.separator", f"invalid value {self.separator!r}", "valid: text such as ','")

    @property
    def suffix_of_files(self) -> str:
        """The extension with its dot."""
        return f".{self.extension.lstrip('.')}"

    def apply(self, text: str, rng: random.Random, epoch: int = 0, step: int = 0) -> str:
        """The caption of one sample.

        text: the caption file's; epoch: counted from 0; step: optimizer steps done.
        """
        if self._drops_all(rng, epoch):
            return ""
        prefix, suffix = (self._affix(affix) for affix in (self.prefix, self.suffix))
        if self.wildcards:
            text = rng.choice(text.split("\n")) if "\n" in text else text
            prefix, text, suffix = (_drawn(part, rng) for part in (prefix, text, suffix))
        text = text.split("\n")[0]
        if as_tags := self._uses_tags(text):
            text = self._tags(text, [prefix, suffix], rng, step)
        elif self.trigger:
            missing = [word for word in self.split(self.trigger) if not mentioned(word, [prefix, text, suffix])]
            text = ", ".join([*missing, *filter(None, [text])])
        text = self._affixed(prefix, text, suffix, as_tags or self.separator in text)
        if self.secondary_separator:
            text = text.replace(self.secondary_separator, self.separator)
        return text

    def fixed(self) -> Captions:
        """These rules without anything random, for validation, caches and token counts. Wildcards are still drawn."""
        return replace(
            self, dropout_rate=0.0, dropout_every_n_epochs=0, tag_dropout_rate=0.0, shuffle=False, token_warmup_steps=0
        )

    @property
    def varies(self) -> bool:
        """Whether a sample's caption, where it is not dropped as a whole, can differ from epoch to epoch."""
        return any(getattr(self, rule) for rule in CAPTIONS_VARY)

    @property
    def may_be_empty(self) -> bool:
        """Whether whole captions are dropped."""
        return self.dropout_rate > 0 or self.dropout_every_n_epochs > 0

    def split(self, text: str) -> list[str]:
        """The tags of a text, without empty ones."""
        return [tag for part in text.split(self.separator) if (tag := part.strip())]

    def _drops_all(self, rng: random.Random, epoch: int) -> bool:
        # the generator is only used where there is a rate, as in sd-scripts
        dropped = self.dropout_rate > 0 and rng.random() < self.dropout_rate
        every = self.dropout_every_n_epochs
        return dropped or (every > 0 and (epoch + 1) % every == 0)

    def _uses_tags(self, text: str) -> bool:
        marker = self.keep_tokens_separator
        marked = bool(marker) and any(marker in part for part in (self.prefix or "", text, self.suffix or ""))
        return marked or self.shuffle or self.tag_dropout_rate > 0 or self.token_warmup_steps > 0

    def _tags(self, text: str, affixes: list[str], rng: random.Random, step: int) -> str:
        kept, free, tail = self._parts(text)
        kept, free = self._with_trigger(kept, free, [*tail, *affixes])
        if step < self.token_warmup_steps:
            grown = step * ((len(free) - self.token_warmup_min) / self.token_warmup_steps)
            free = free[: int(grown // 1) + self.token_warmup_min]
        if self.shuffle:
            rng.shuffle(free)
        if self.tag_dropout_rate > 0:
            free = [tag for tag in free if rng.random() >= self.tag_dropout_rate]
        return ", ".join([*kept, *free, *tail])

    def _with_trigger(self, kept: list[str], free: list[str], others: list[str]) -> tuple[list[str], list[str]]:
        """The tags that are kept and that are not, where the tags with the trigger are kept."""
        front: list[str] = []
        for word in self.split(self.trigger or ""):
            if not mentioned(word, [*front, *kept, *others]):
                front += [tag for tag in free if mentioned(word, [tag])] or [word]
        return [*front, *kept], [tag for tag in free if tag not in front]

    def _parts(self, text: str) -> tuple[list[str], list[str], list[str]]:
        """Tags that are kept in front, that may be shuffled and dropped, and that are kept at the end."""
        marker = self.keep_tokens_separator
        if marker and marker in text:
            kept, free, *tail = text.split(marker, 2)
            return self.split(kept), self.split(free), self.split(tail[0]) if tail else []
        tags = self.split(text)
        return tags[: self.keep_tokens], tags[self.keep_tokens :], []

    def _affix(self, affix: str | None) -> str:
        """A prefix or suffix as it is joined: on one line, without keep_tokens_separator: it is always kept."""
        return (affix or "").replace("\n", " ").replace(self.keep_tokens_separator or "\n", "")

    def _affixed(self, prefix: str, text: str, suffix: str, among_tags: bool) -> str:
        if prefix.strip():
            text = self._join(prefix, text, self._is_tag(prefix, -1, among_tags))
        if suffix.strip():
            text = self._join(text, suffix, self._is_tag(suffix, 0, among_tags))
        return text

    def _is_tag(self, affix: str, seam: int, among_tags: bool) -> bool:
        """Whether an affix looks like a tag; seam: index of its word next to the text."""
        leans = affix.lower().split()[seam] in _LEANING
        return self.separator in affix or (among_tags and not leans)

    def _join(self, before: str, after: str, as_tags: bool) -> str:
        if not before or not after:
            return before or after
        if not as_tags:
            return f"{before} {after}"
        while (shorter := before.removesuffix(self.separator).rstrip()) != before:
            before = shorter
        while (shorter := after.removeprefix(self.separator).lstrip()) != after:
            after = shorter
        return ", ".join(filter(None, (before, after)))


def _drawn(text: str, rng: random.Random) -> str:
    """A text with one choice of each {a|b}; {{ and }} are braces."""
    # no text has a NUL: it marks literal braces while choices are drawn
    marked = text.replace("{{", "\0(").replace("}}", "\0)")
    head, brace, rest = marked.rpartition("}")  # beyond, nothing is closed
    head = re.sub(r"\{([^}]+)\}", lambda match: rng.choice(match[1].split("|")), head + brace)
    return (head + rest).replace("\0(", "{").replace("\0)", "}")


def mentioned(word: str, texts: list[str]) -> bool:
    """Whether a word occurs in any of the texts, as a whole word."""
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for text in texts)


def read_caption(path: str | os.PathLike) -> str:
    """The text of a caption file: its lines, stripped, without empty ones. UTF-8 with or without a byte-order mark.

    Raises a UserError that names the file if it is not such a text.
    """
    with opened(path) as file:
        raw = file.read(LONGEST_FILE + 1)
    if len(raw) > LONGEST_FILE:
        raise user_error(
            os.fspath(path), f"is longer than {LONGEST_FILE // 1024} KB, too long for a caption", "shorten it"
        )
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise user_error(os.fspath(path), "is not UTF-8 text", "save the caption file as UTF-8") from None
    if "\0" in text:
        raise user_error(os.fspath(path), "is a binary file", "save the caption as UTF-8 text")
    return as_lines(text)


def as_lines(text: str) -> str:
    """A caption's lines, stripped, without empty ones; split at CR, LF and CRLF only."""
    return "\n".join(line for part in re.split(r"\r\n?|\n", text.replace("\0", "")) if (line := part.strip()))
