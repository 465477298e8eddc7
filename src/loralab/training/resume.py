"""Which state a run resumes from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from loralab.errors import Problem, UserError, user_error
from loralab.models.checkpoint import Unreadable, contents
from loralab.models.probe import ADAPTER_PARTS
from loralab.schema.nearest import nearest
from loralab.training.marker import MARKER, TENSORS, DamagedState, State, read
from loralab.training.signature import Signature, differences
from loralab.training.state import below, readable, versions

Say = Callable[[str], None]
MOST = 10
"""Differing settings that are listed."""


@dataclass(frozen=True)
class Resume:
    """state: what to resume from. force: settings that differ from the state's take effect; differing: their names."""

    state: State
    force: bool = False
    differing: list[str] = field(default_factory=list)


def choose(
    setting: str | None, roots: Sequence[Path], signature: Signature, force: bool = False, say: Say = print
) -> Resume | None:
    """The state that `resume` asks for: null, a path, or auto: the newest of this signature under the roots, and where
    there is none and `force` is set, the newest.

    Raises a UserError where a path leads to no valid state, or to one of another signature and `force` is not set.
    """
    if setting is None:
        return None
    if setting == "auto":
        state = _newest(roots, signature, force, say)
    else:
        state = checked(setting, roots, State.open)
        if not force:
            refuse_other_settings(state, signature)
    if state is None:
        return None
    if (here := versions()) != state.versions:
        others = ", ".join(
            f"{name} {state.versions.get(name)}" for name in here if here[name] != state.versions.get(name)
        )
        say(f"resume: the state was saved with {others}, so the result may differ slightly")
    return Resume(state, force, [key for key, _, _ in differences(state.signature, signature)])


def checked(path: str, roots: Iterable[Path], opened: Callable[[State], State] = lambda state: state) -> State:
    """The whole state at a path; a UserError says what is there instead and names the last valid state.

    opened: a further check, which may find it damaged."""
    folder = Path(path).expanduser()
    if folder.name in (TENSORS, MARKER):
        folder = folder.parent
    elif folder.is_file():
        raise _only_a_file(folder)
    try:
        return opened(read(folder).check())
    except DamagedState as why:
        near = [place for place in (folder, folder / "states", folder.parent) if place.name == "states"]
        last = _last_valid(near, opened) or _last_valid(roots, opened)
        remedy = (
            f"resume from the last valid state, {last.path}"
            if last
            else "start without resume: no valid state was found"
        )
        if (meant := _nearest(folder)) and meant != folder:
            remedy = f"did you mean {meant}? Otherwise {remedy}"
        raise user_error("resume", f"'{path}' {why}", remedy) from None


def refuse_other_settings(state: State, signature: Signature) -> None:
    """Raises a UserError that lists the settings which differ from the state's."""
    if found := differences(state.signature, signature):
        remedy = "use the state's settings, or resume_force=true to continue with the new ones"
        raise UserError(
            Problem("resume", f"{state.path} was saved with other settings", remedy),
            *(Problem(key, _words(then, now)) for key, then, now in found),
        )


def _newest(roots: Sequence[Path], signature: Signature, force: bool, say: Say) -> State | None:
    """The newest whole state of the signature; where there is none, says how the newest of another one differs."""
    others: list[State] = []
    for path in below(roots):
        try:
            state = read(path)
            if not differences(state.signature, signature):
                state = state.check().open()
                say(f"resuming from step {state.step} of {state.path}")
                return state
            others.append(state)
        except DamagedState as why:
            say(f"resume: {path} {why}; skipped, trying the one before it")
    newest = _first_whole(others, State.open)
    if newest is None:
        say(f"resume: no training state found under {roots[0]}; starting from scratch")
        return None
    found = differences(newest.signature, signature)
    lines = [f"  {key}: {_words(then, now)}" for key, then, now in found[:MOST]]
    lines += [f"  and {len(found) - MOST} more"] if len(found) > MOST else []
    if force:
        first = f"resuming from step {newest.step} of {newest.path} with other settings (resume_force):"
        say("\n".join([first, *lines]))
        return newest
    how = "resume_force=true resumes from it with the new settings"
    first = f"resume: no training state with these settings; starting from scratch. {newest.path} differs ({how}):"
    say("\n".join([first, *lines]))
    return None


def _last_valid(roots: Iterable[Path], opened: Callable[[State], State]) -> State | None:
    return _first_whole(filter(None, map(readable, below(roots))), opened)


def _first_whole(states: Iterable[State], opened: Callable[[State], State]) -> State | None:
    for state in states:
        try:
            return opened(state.check())
        except DamagedState:
            continue
    return None


def _only_a_file(path: Path) -> UserError:
    """The error for a file given as a state."""
    try:
        inside = contents(path).names
    except (Unreadable, OSError):
        inside = set()
    if any(part in name for name in inside for part in ADAPTER_PARTS):
        remedy = f"to start from its weights: adapter.weights={path}; to resume a run, give a folder of its states/"
        return user_error("resume", f"'{path}' is an adapter file, not a training state", remedy)
    remedy = "give the folder of a state, states/stepN in a run's folder"
    return user_error("resume", f"'{path}' is a file, not a training state", remedy)


def _nearest(path: Path) -> Path | None:
    """The state whose path is spelled most like this one's, folder by folder."""
    path = path.absolute()
    found = Path(path.anchor)
    for part in path.parts[1:]:
        if not (found / part).exists():
            names = [entry.name for entry in found.iterdir()] if found.is_dir() else []
            if not (close := nearest(part, names)):
                return None
            part = close
        found /= part
    try:
        return read(found).path
    except DamagedState:
        return None


def _words(then: str, now: str) -> str:
    """How two values differ; digests are not shown."""
    return "differs" if re.fullmatch(r"'[0-9a-f]{32}'", now) else f"{now} here, {then} in the state"
