"""Paths that will be written to: what can be checked before anything is."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from loralab.errors import user_error
from loralab.urls import is_url, plain
from loralab.writing import part_name

_JOINERS = "\u200c\u200d"
"""Invisible, but part of words and of emoji."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def full(path: str | os.PathLike) -> Path:
    """The absolute path, `~` expanded, links kept."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def output_folder(setting: str | None, run_folder: Path) -> Path:
    """Where adapter files are written: in the run's folder, too, where `output.folder` is a URL, to which that is
    uploaded."""
    return run_folder if not setting or is_url(plain(setting)) else full(setting)


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(place for place in (path, *path.parents) if os.path.exists(place))


def unusable(path: str | os.PathLike) -> tuple[str, str] | None:
    """What is wrong with a folder to write into, and the remedy; it need not exist."""
    return malformed(os.fspath(path)) or _unwritable(full(path)) or too_long(full(path))


def check_place(path: str | os.PathLike, setting: str, is_folder: bool = False) -> None:
    """Raises a UserError if a tool could not write its result to a path; the folder above need not exist."""
    place = full(path)
    found = malformed(os.fspath(path)) or too_long(place.with_name(part_name(place.name)) if place.name else place)
    if not found and not is_folder and place.is_dir():
        found = "is a folder", "give the name of a file"
    if found := found or _unwritable(place.parent):
        raise user_error(setting, f"'{path}' {found[0]}", found[1])


def malformed(path: str) -> tuple[str, str] | None:
    """What is wrong with a path that is most likely a mistake on this system, and the remedy."""
    if invisible := invisible_characters(path):
        return f"contains the invisible characters {invisible}", "remove them"
    if os.path.exists(os.path.expanduser(path)):
        return None
    if any(part != part.strip() for part in Path(path).parts):
        return "has a name that starts or ends with a space", f"remove it: '{trimmed(path)}'"
    if "://" in path:
        return "is a URL, not a path", "give a local path"
    if os.name != "nt" and re.match(r"[A-Za-z]:([\\/]|$)", path):
        return "has a drive letter, but this is not Windows", "give a local path"
    if os.name != "nt" and "\\" in path:
        return "has backslashes, which do not separate folders here", f"write '{path.replace(chr(92), '/')}'"
    if os.path.expanduser(path).startswith("~"):
        return "names the home folder of an unknown user", "give the full path"
    return None


def shortened(path: str) -> str:
    """A path for display: the middle of a very long one is replaced by …"""
    return path if len(path) <= 400 else f"{path[:200]}…{path[-100:]}"


def trimmed(path: str) -> str:
    """Without blanks at the start or end of a name."""
    return "/".join(part.strip() for part in path.split("/"))


def invisible_characters(text: str) -> str:
    """Control and formatting characters in a text, as escapes."""
    found = {c for c in text if unicodedata.category(c) in ("Cc", "Cf") and c not in _JOINERS}
    return ", ".join(sorted(c.encode("unicode_escape").decode() for c in found))


def too_long(path: Path) -> tuple[str, str] | None:
    """What is wrong with the length of a path or of a name in it (bytes) on its disk, and the remedy."""
    near = existing(path)
    longest, limit = max((len(os.fsencode(part)), part) for part in path.parts)[0], _limit(near, "PC_NAME_MAX", 255)
    if longest > limit:
        return f"has a name of {longest} bytes; the limit on this disk is {limit}", "choose a shorter name"
    size, limit = len(os.fsencode(path)), _limit(near, "PC_PATH_MAX", 4096)
    return (f"is {size} bytes long; the limit for a path is {limit}", "choose a shorter one") if size >= limit else None


def not_for_windows(name: str) -> str | None:
    """Why a file of this name cannot be copied to Windows."""
    if found := sorted(set('<>:"|?*') & set(name)):
        return "contains " + " ".join(f"'{character}'" for character in found)
    if name.endswith("."):
        return "ends in a dot"
    return "is a reserved name" if _RESERVED.fullmatch(name) else None


def _unwritable(folder: Path) -> tuple[str, str] | None:
    near = existing(folder)
    if not near.is_dir():
        return f"cannot be a folder, as {near} is a file", "choose another folder"
    if not os.access(near, os.W_OK | os.X_OK):
        return f"is not writable ({near})", "choose a folder that you may write to"
    return None


def _limit(place: Path, name: str, usual: int) -> int:
    try:
        return os.pathconf(place, name)
    except (AttributeError, OSError, ValueError):  # Windows, some file systems
        return usual
