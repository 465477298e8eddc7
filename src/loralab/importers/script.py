"""Start scripts (.sh, .bat, .ps1): the training command, with the script's own variables substituted.

Nothing is executed: values that are set under a condition, in a loop, or by a program are unknown.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Value = str | list[str]

COMMENTS = ("#", "::", "rem ", "@rem ")
CONTINUED = re.compile(r"(\s*[\\^]|\s+`)[ \t]*\n")
"""Line continuation in sh, cmd and PowerShell."""

QUOTED = re.compile(r"'[^']*'|\"(?:\\.|`.|[^\"\\`])*\"|[^'\"]+|.", re.DOTALL)
"""Pieces of a line: quoted texts, and what is between them."""

VARIABLE = re.compile(
    r"\$\{(?:env:)?(?P<braced>\w+)(?:\[[@*]\])?(?::?[-=](?P<default>[^}]*))?\}"
    r"|\$\(\$(?P<inner>\w+)\)|\$(?:env:)?(?P<plain>[A-Za-z_]\w*)|%(?P<percent>[A-Za-z_]\w*)%|!(?P<late>[A-Za-z_]\w*)!"
    r"|(?P<argument>\$[\d@*#]|%~[a-z]*\d|(?<!\w)%[\d*](?!\w))",
    re.IGNORECASE,
)

ASSIGNMENTS = (
    re.compile(
        r"@?set\s+(?P<kind>/[ap]\s+)?(?P<q>\")?(?P<name>\w+)(?P<how>)=(?P<value>.*?)(?(q)\"?)\s*$", re.IGNORECASE
    ),
    re.compile(r"\$(?:env:|global:|script:)?(?P<name>\w+)\s*(?P<how>\+?)=(?P<kind>)\s*(?P<value>.*)$", re.IGNORECASE),
    re.compile(r"(?:(?:export|local|readonly|declare)\s+)?(?P<name>\w+)(?P<how>\+?)=(?P<kind>)(?P<value>.*)$"),
)
"""cmd, PowerShell, sh."""

ADDED = re.compile(r"(?:\[void\])?\$(?P<name>\w+)\.Add(?:Range)?\((?P<value>.*)\)\s*$")
OPTION = re.compile(r"--[A-Za-z][\w-]*(?:[= ][^\s'\")]+)?")
COMMAND = re.compile(r"\.py['\"]?\s+(\S.*)?--[A-Za-z]", re.DOTALL)
"""A Python program with an option."""

UNASSIGNED, CONDITIONAL, COMPUTED = (
    "is not assigned in the script",
    "is assigned under a condition, which is not evaluated",
    "is computed by the script, which is not executed",
)
ARGUMENT, LOOP = "is an argument of the script", "is set in a loop, which is not executed"

BESIDE = re.compile(
    r"%~dp0[\\/]?|\$PSScriptRoot[\\/]|\$\(dirname [\"']?\$(0|\{?BASH_SOURCE(\[0\])?\}?)[\"']?\)/", re.IGNORECASE
)
"""The script's own folder, as written in cmd, PowerShell and sh."""
HOME = re.compile(r"\$\{?HOME\}?(?!\w)|%USERPROFILE%|\$env:USERPROFILE", re.IGNORECASE)


@dataclass(slots=True)
class Script:
    """The training commands of a script, and the variables that they depend on."""

    commands: list[str] = field(default_factory=list)
    """Each with its variables substituted."""
    unknown: dict[str, str] = field(default_factory=dict)
    """Variable of the commands → why its value is unknown."""
    conditional: list[str] = field(default_factory=list)
    """Options that are added to a command under a condition."""
    variables: dict[str, Value] = field(default_factory=dict)

    def unknown_in(self, text: str) -> str:
        """The first variable in a text whose value is unknown, "" where there is none."""
        names = (next(filter(None, m.group(*NAMED)), "") for m in VARIABLE.finditer(text))
        return next((name for name in names if name in self.unknown), "")

    def _take(self, statement: str, conditional: bool) -> None:
        if loop := re.match(r"for\s+\(?[$%]*(\w+)\s", statement, re.IGNORECASE):
            self.unknown[loop[1]] = LOOP
        given = next((m for pattern in ASSIGNMENTS if (m := pattern.match(statement))), None)
        is_text = given is not None and len(QUOTED.findall(given["value"].strip())) == 1 and given["value"][:1] in "'\""
        if not is_text and (COMMAND.search(statement) or OPTION.match(statement)):
            self.commands.append(self._substituted(statement))
        elif not given and COMMAND.search(command := self._substituted(statement)):
            self.commands.append(command)
        elif added := ADDED.match(statement):
            self._assign(added["name"], "+", f"@({added['value']})", conditional)
        elif given:
            self._assign(given["name"], given["how"], given["value"] if not given["kind"] else "$(", conditional)

    def _assign(self, name: str, how: str, given: str, conditional: bool) -> None:
        if conditional:
            options = OPTION.findall(self._substituted(given))
            self.conditional += options
            if not how:
                self.unknown[name] = CONDITIONAL
            elif options:
                self.variables.setdefault(name, [])
            return
        value = self._value(given.strip())
        if value is None:
            self.unknown[name] = COMPUTED
            return
        self.unknown.pop(name, None)
        before = self.variables.get(name, "") if how else ""
        if isinstance(before, list) or isinstance(value, list):
            self.variables[name] = [*(before or []), *value]
        else:
            self.variables[name] = before + value

    def _value(self, given: str) -> Value | None:
        """The value that a variable is assigned; None where it is the output of a program."""
        if given.startswith(("(", "@(")) and given.endswith(")"):
            inside = self._substituted(given.lstrip("@")[1:-1].replace(",", " "))
            return _words(inside)
        if given.lower().startswith("[system.collections.") and given.endswith("()"):
            return []
        if "$(" in given or "`" in given or given.startswith(("[", "if ", "Get-", "Join-")):
            return None
        text = self._substituted(given)
        if self.unknown_in(text):
            return None
        found = _words(text, comments=True)
        return " ".join(found) if found else ""

    def _substituted(self, text: str) -> str:
        return "".join(self._piece(piece) for piece in QUOTED.findall(text))

    def _piece(self, piece: str) -> str:
        if piece.startswith("'") and len(piece) > 1:
            return piece
        quoted = piece.startswith('"')
        whole = VARIABLE.fullmatch(piece.strip('"')) if quoted else None
        if whole and isinstance(self._of(whole), list):
            return VARIABLE.sub(lambda match: self._written(match, quoted=False), piece.strip('"'))
        return VARIABLE.sub(lambda match: self._written(match, quoted), piece)

    def _of(self, match: re.Match[str]) -> Value | None:
        name = next(filter(None, match.group(*NAMED)), "")
        lower = {known.lower(): value for known, value in self.variables.items()}
        value = self.variables.get(name, lower.get(name.lower()))
        if name in self.unknown or value is None:
            return match["default"] if name not in self.unknown else None
        return value

    def _written(self, match: re.Match[str], quoted: bool) -> str:
        """A variable's value as a part of a command; the variable itself where its value is unknown."""
        value = self._of(match)
        if value is None:
            name = next(filter(None, match.group(*NAMED)), "")
            is_argument = match["argument"] or name.isdigit()
            self.unknown.setdefault(name, ARGUMENT if is_argument else UNASSIGNED)
            return match[0]
        if isinstance(value, list):
            return " ".join(map(shlex.quote, value))
        options = not quoted and (
            value.startswith("--") or COMMAND.search(value)
        )  # several words, as a shell splits them
        return value if quoted or options else shlex.quote(value)


NAMED = ("braced", "inner", "plain", "percent", "late", "argument")


def script(text: str, folder: Path = Path()) -> Script:
    """The training commands of a start script, or of a command line alone. folder: that of the script."""
    found = Script()
    text = BESIDE.sub(lambda match: f"{folder.absolute()}{os.sep}", text)
    text = HOME.sub(lambda match: os.path.expanduser("~"), text)
    for statement, conditional in _statements(text):
        found._take(statement, conditional)
    return found


BLOCK_WORDS = {"if": 1, "for": 1, "while": 1, "until": 1, "case": 1, "fi": -1, "done": -1, "esac": -1}
"""Change of the nesting depth by words of sh; blocks of cmd and PowerShell are counted by brackets."""

INSIDE = re.compile(r"&&\s*(.*)|\{\s*(.*?)\s*\}\s*$|\s\(?(set\s.*?)\)?\s*$", re.IGNORECASE)
"""A statement on the same line as its condition."""


def _statements(text: str) -> Iterator[tuple[str, bool]]:
    """Each statement, and whether it is under a condition or in a loop."""
    in_words = re.search(r"(?m)(^|[;\s])(fi|done|esac)\s*(;|$)", text)
    depth = 0
    for part in (part for line in _lines(text) for part in _split(line) if part):
        word, _, rest = part.partition(" ")
        if word in ("then", "else", "do") and rest:
            part = rest.strip()
            word = part.split()[0]
        bare = "".join(piece for piece in QUOTED.findall(part) if piece[0] not in "'\"")
        bare = re.sub(r"\$\{[^}]*\}|\$\([^)]*\)", "", bare)
        change = BLOCK_WORDS.get(word, 0) if in_words else bare.endswith("(") - bare.startswith(")")
        change += bare.count("{") - bare.count("}")
        condition = word.lower() in ("if", "for", "while", "[", "[[", "test")
        inside = INSIDE.search(part) if condition else None
        yield next(filter(None, inside.groups()), "") if inside else part, condition or min(depth, depth + change) > 0
        depth = max(0, depth + change)


def _lines(text: str) -> list[str]:
    """Logical lines: continued lines joined, comments removed, and bare options joined to the command before."""
    lines = [line.rstrip() for line in text.splitlines()]
    lines = [line for line in lines if not line.lstrip().lower().startswith(COMMENTS)]
    joined: list[str] = []
    for line in CONTINUED.sub(" ", "\n".join(lines) + "\n").splitlines():
        line = line.strip()
        if line.startswith("--") and joined and (joined[-1].startswith("--") or ".py" in joined[-1]):
            joined[-1] += f" {line}"
        elif line:
            joined.append(line)
    return joined


def _split(line: str) -> list[str]:
    """A line's statements, separated by semicolons outside quotes."""
    pieces = "".join(p if p[0] in "'\"" else p.replace(";", "\0") for p in QUOTED.findall(line))
    return [part.strip() for part in pieces.split("\0")]


def _words(text: str, comments: bool = False) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters, lexer.escape = True, "#" if comments else "", ""
    try:
        return list(lexer)
    except ValueError:  # an unclosed quote: mostly an apostrophe in a comment
        return text.split()
