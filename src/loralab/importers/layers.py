"""A settings file together with those that it starts from, which set what it does not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from loralab.errors import UserError
from loralab.importers import content as contents
from loralab.importers.content import Content
from loralab.importers.dialects import DIALECTS, dialect_of
from loralab.importers.foreign import Foreign
from loralab.importers.section import Section, section_of
from loralab.schema import coerce

SKIP = "json_load_skip_list"


def layers(content: Content, skip: Iterable[str] = (), seen: tuple[Path, ...] = ()) -> tuple[Foreign, Section]:
    """A file's options and own section, over those of the file that it starts from."""
    seen += (content.path.resolve(),)
    found: Foreign = DIALECTS[dialect_of(content)].read(content)
    section = section_of(content, found.warnings)
    for name in skip:
        if not (_skip(found, name) | section.skip(name)):
            found.warnings.append(f"does not contain '{contents.shown(name)}', which settings.skip names")
    if found.starts_from and found.has(found.starts_from):
        below, rest = layers(_named(found, seen), found.take(SKIP, coerce.names) or [], seen)
        found.warnings.append(f"starts from {contents.shown(below.content.path.name)}")
        for name in (SKIP, found.starts_from):
            found.drop(name)
        section = section.over(rest, {key for key in found.options if found.has(key)})
        found.start_from(below)
    return found, section


def _named(found: Foreign, seen: tuple[Path, ...]) -> Content:
    """The file that this one starts from; a relative path starts here, or beside the file that names it."""
    name = found.starts_from
    key = found.keys[name]
    try:
        path = Path(coerce.path(found.options[name]))
    except ValueError as error:
        raise found.error(key, f"invalid value {found.options[name]!r:.80}", f"valid: {error}") from error
    beside = found.content.path.parent / path
    try:
        content = contents.read(path if path.exists() or not beside.exists() else beside)
        if content.path.resolve() in seen:
            raise found.error(key, f"starts from itself: {path} has already been read", f"remove its {key}")
        return content
    except UserError as error:
        problem = error.problems[0]
        if problem.setting != "settings.load":
            raise
        raise found.error(key, problem.found, problem.remedy) from error


def _skip(foreign: Foreign, name: str) -> bool:
    """Drops a key of the file, by its own name or that of any other dialect. Returns whether the file has it."""
    option = next((dialect.NAMES[name] for dialect in DIALECTS.values() if name in dialect.NAMES), name)
    there = option in foreign.options or name in foreign.unknown
    foreign.drop(option)
    foreign.keys.pop(option, None)
    foreign.absent = {key: value for key, value in foreign.absent.items() if key != option}
    return there
