"""A settings file together with those that it starts from, which set what it does not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from loralab.importers import content as contents
from loralab.importers.content import Content
from loralab.importers.foreign import Foreign
from loralab.importers.recognition import DIALECTS, dialect_of
from loralab.importers.section import Section, section_of

SKIP = "json_load_skip_list"


def layers(content: Content, skip: Iterable[str] = (), seen: tuple[Path, ...] = ()) -> tuple[Foreign, Section]:
    """A file's options and own section, over those of the file that it starts from."""
    seen += (content.path.resolve(),)
    found: Foreign = DIALECTS[dialect_of(content)].read(content)
    section = section_of(content, found.warnings)
    for name in skip:
        if not (_skip(found, name) | section.skip(name)):
            found.warnings.append(f"does not contain '{contents.shown(name)}', which settings.skip names")
    if lower := found.file_named_by(found.starts_from):
        if lower.path.resolve() in seen:
            key = found.keys[found.starts_from]
            raise found.error(key, f"starts from itself: {lower.path} has already been read", f"remove its {key}")
        below, rest = layers(lower, found.take(SKIP) or [], seen)
        found.warnings.append(f"starts from {contents.shown(below.content.path.name)}")
        for name in (SKIP, found.starts_from):
            found.drop(name)
        section = section.over(rest, {key for key in found.options if found.has(key)})
        found.start_from(below)
    return found, section


def _skip(foreign: Foreign, name: str) -> bool:
    """Drops a key of the file, by its own name or that of any other dialect. Returns whether the file has it."""
    option = next((dialect.NAMES[name] for dialect in DIALECTS.values() if name in dialect.NAMES), name)
    there = option in foreign.options or name in foreign.unknown
    foreign.drop(option)
    foreign.keys.pop(option, None)
    foreign.absent = {key: value for key, value in foreign.absent.items() if key != option}
    return there
