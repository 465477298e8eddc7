"""The raw content of a settings file, before it is interpreted."""

from __future__ import annotations

import json
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loralab.errors import Problem, UserError, user_error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

LIMIT = 8 << 20
"""Bytes; settings files are a few kilobytes."""

HEADER_LIMIT = 100 << 20
"""Bytes; what the safetensors format allows for a header."""

Format = Literal["json", "toml", "text", "safetensors"]


class NotSettings(UserError):
    """The file does not contain the settings of a supported trainer."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file's content: a table or list (json), a table (toml), a text, or the header of a safetensors file."""

    path: Path
    format: Format
    data: Any
    fault: str = ""
    """Of a text: why it is not TOML."""

    def error(self, key: str, found: str, remedy: str = "") -> UserError:
        """An error about one key of this file."""
        return user_error(f"{shown(key)} (in {self.path.name})", found, remedy)


def read(path: str | Path) -> Content:
    """Reads a settings file, of a safetensors file the header alone. Raises UserError."""
    path = Path(os.path.expanduser(path))  # unlike Path.expanduser, it accepts ~ of an unknown user
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise _bad(path, "is not a regular file (a pipe or a device)", "give a JSON, TOML or safetensors file")
        with open(path, "rb") as file:
            start = file.read(9)
            if len(start) == 9 and start[8:] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= HEADER_LIMIT:
                return Content(path, "safetensors", _header(path, start[8:] + file.read(_length(start) - 1), start))
            raw = start + file.read(LIMIT)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if len(raw) > LIMIT:
        size = f"{path.stat().st_size / 1e6:.0f} MB"
        raise no_settings(path, f"is {size}, too large for a settings file")
    return _parse(path, raw)


def no_settings(path: Path, found: str, remedy: str = "") -> NotSettings:
    """The error about a file that is not a settings file."""
    return NotSettings(
        Problem("settings.load", f"'{shown(str(path), 4096)}' {found}", remedy or "give a settings file: " + READ)
    )


READ = (
    "JSON, TOML or a start script of sd-scripts, kohya_ss or LoRA Easy Training, JSON of OneTrainer, "
    "YAML of ai-toolkit, JSON or config.env of SimpleTuner, TOML of diffusion-pipe, "
    "a command of diffusers' LoRA scripts, or a LoRA file"
)


def shown(name: Any, most: int = 80) -> str:
    """A name that is safe to print: control characters are escaped, and it is shortened."""
    return name if isinstance(name, str) and name.isprintable() and len(name) <= most else repr(name)[:most]


def _length(start: bytes) -> int:
    return int.from_bytes(start[:8], "little")


def _header(path: Path, raw: bytes, start: bytes) -> dict[str, Any]:
    if len(raw) < _length(start):
        raise _bad(path, "is a safetensors file that was cut short", "copy it again")
    header = _json(path, raw.decode("utf8", "replace"))
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__", {}), dict):
        raise _bad(path, "is not a valid safetensors file", "copy it again")
    return header


def _parse(path: Path, raw: bytes) -> Content:
    if raw[:2] == b"PK" or raw[:1] == b"\x80":
        found = "is a checkpoint in pickle format, which contains no settings"
        raise no_settings(path, found, "give the safetensors file, or a JSON or TOML file")
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise no_settings(path, "is not a text file in UTF-8", "save it as UTF-8") from error
    if not text.strip():
        raise no_settings(path, "is empty")
    if text.lstrip()[0] == "{":
        return Content(path, "json", _json(path, text))
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        return Content(path, "json", found) if (found := _other_json(text)) is not None else _text(path, text, error)
    as_options = any(key.startswith("--") for key in table)  # valid TOML, but meant as options
    return Content(path, "text", text) if as_options else Content(path, "toml", table)


def _other_json(text: str) -> Any:
    """The value of a text that is JSON but not a table; None where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _text(path: Path, text: str, error: Exception) -> Content:
    line = _line(text, str(error))
    return Content(path, "text", text, _reason(error) + (f"; the line is: {line}" if line else ""))


def _json(path: Path, text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise Content(path, "json", None).error(key, "defined twice", "keep one of them")
            found[key] = value
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"is not valid JSON: {_reason(error)}", "correct it, or export it again") from error


def _reason(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:200]


def _line(text: str, message: str) -> str:
    """The line that a TOML error is about."""
    lines = text.splitlines()
    number = message.partition("(at line ")[2].partition(",")[0]
    if not number.isdigit():
        number = str(len(lines)) if "end of document" in message else "0"
    return shown(lines[int(number) - 1].strip()) if 0 < int(number) <= len(lines) else ""


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return _bad(path, "not found", f"check the path; a relative path starts at {Path.cwd()}")
    if isinstance(error, IsADirectoryError):
        return _bad(path, "is a folder", "give a file, or train every settings file in it with settings.run_folder")
    return _bad(path, f"cannot be read: {getattr(error, 'strerror', None) or error}", "check the path")


def _bad(path: Path, found: str, remedy: str) -> UserError:
    return user_error("settings.load", f"'{shown(str(path), 4096)}' {found}", remedy)
