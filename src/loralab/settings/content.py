"""What a settings file holds, before anyone asks what it means."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loralab.errors import UserError, user_error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

LIMIT = 8 << 20
"""Bytes; settings files are a few kilobytes."""

HEADER_LIMIT = 100 << 20
"""Bytes; what the safetensors format allows for a header."""

Format = Literal["json", "toml", "text", "safetensors"]


@dataclass(frozen=True, slots=True)
class Content:
    """A file's content: a table (json, toml), a text, or the header of a safetensors file."""

    path: Path
    format: Format
    data: Any

    def error(self, key: str, found: str, remedy: str = "") -> UserError:
        """An error about one key of this file."""
        return user_error(f"{shown(key)} (in {self.path.name})", found, remedy)


def read(path: str | Path) -> Content:
    """Reads a settings file, of a safetensors file the header alone. Raises UserError."""
    path = Path(path).expanduser()
    try:
        with open(path, "rb") as file:
            start = file.read(9)
            if len(start) == 9 and start[8:] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= HEADER_LIMIT:
                return Content(path, "safetensors", _header(path, start[8:] + file.read(_length(start) - 1), start))
            raw = start + file.read(LIMIT)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if len(raw) > LIMIT:
        size = f"{path.stat().st_size / 1e6:.0f} MB"
        raise _bad(path, f"is {size} long, and no settings file is", "give a JSON, TOML or safetensors file")
    return _parse(path, raw)


def shown(name: Any) -> str:
    """A name as it may be printed: what a terminal or a shell might obey is escaped."""
    return name if isinstance(name, str) and name.isprintable() and len(name) <= 80 else repr(name)[:80]


def _length(start: bytes) -> int:
    return int.from_bytes(start[:8], "little")


def _header(path: Path, raw: bytes, start: bytes) -> dict[str, Any]:
    if len(raw) < _length(start):
        raise _bad(path, "is a safetensors file that was cut short", "copy it again")
    header = _json(path, raw.decode("utf8", "replace"))
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise _bad(path, "is not a whole safetensors file", "copy it again")
    return header


def _parse(path: Path, raw: bytes) -> Content:
    if raw[:2] == b"PK" or raw[:1] == b"\x80":
        found = "is a checkpoint in pickle format, which carries no settings"
        raise _bad(path, found, "give the safetensors file, or a JSON or TOML file")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _bad(path, "is not a text in UTF-8", "save it as UTF-8") from error
    if not text.strip():
        raise _bad(path, "is empty", "give a file with settings in it")
    first = text.lstrip()[0]
    if first == "{":
        return Content(path, "json", _json(path, text))
    if first in '["' and (kind := _other_json(text)):
        raise _bad(path, f"is a JSON {kind}, and settings are names with values", 'write {"net_dim": 16, …}')
    if _is_command_line(text):
        return Content(path, "text", text)
    return Content(path, "toml", _toml(path, text))


def _is_command_line(text: str) -> bool:
    """Whether there are --options in it; `--name = value` lines alone are TOML by the letter, and meant as options."""
    try:
        return any(key.startswith("--") for key in tomllib.loads(text))
    except (ValueError, RecursionError):
        return any(word.startswith("--") and word[2:3].isalpha() for word in text.split())


def _other_json(text: str) -> str | None:
    """What a text is, where it is JSON but no table; TOML may start alike."""
    try:
        return "list" if isinstance(json.loads(text), list) else "text"
    except (ValueError, RecursionError):
        return None


def _json(path: Path, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise Content(path, "json", None).error(key, "stands there twice", "keep one of them")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"is not JSON: {_reason(error)}", "correct it, or export it again") from error


def _toml(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = f"the line is: {line}" if (line := _line(text, str(error))) else "correct it, or export it again"
        raise _bad(path, f"is neither JSON nor TOML nor a command line: {_reason(error)}", remedy) from error


def _reason(error: BaseException) -> str:
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)[:200]


def _line(text: str, message: str) -> str:
    """The line that a TOML error speaks of."""
    lines = text.splitlines()
    number = message.partition("(at line ")[2].partition(",")[0]
    if not number.isdigit():
        number = str(len(lines)) if "end of document" in message else "0"
    return shown(lines[int(number) - 1].strip()) if 0 < int(number) <= len(lines) else ""


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return _bad(path, "is not there", f"check the path; a relative one starts at {Path.cwd()}")
    if isinstance(error, IsADirectoryError):
        return _bad(path, "is a folder", "give a file, or a folder of them as settings.run_folder")
    return _bad(path, f"cannot be read: {getattr(error, 'strerror', None) or error}", "check the path")


def _bad(path: Path, found: str, remedy: str) -> UserError:
    return user_error("settings.load", f"'{shown(str(path))}' {found}", remedy)
