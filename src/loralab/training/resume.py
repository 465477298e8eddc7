"""Which state a run goes on from."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from loralab.errors import Problem, UserError, user_error
from loralab.training.signature import Signature, differences
from loralab.training.state import TENSORS, DamagedState, State, below, last_valid, read

Say = Callable[[str], None]
CONTENT = ("base model", "images and captions", "adapter.weights")
"""What a signature holds digests of, which tell a reader nothing."""


@dataclass(frozen=True)
class Resume:
    """state: what to go on from. insist: settings that differ from the state's are to count; differing: their names."""

    state: State
    insist: bool = False
    differing: list[str] = field(default_factory=list)


def choose(
    setting: str | None, roots: Iterable[Path], signature: Signature, insist: bool = False, say: Say = print
) -> Resume | None:
    """The state that `resume` asks for: null, a path, or auto (the newest of this signature under the roots).

    Raises a UserError where a path leads to no valid state, or to one of another signature and `insist` is not set.
    """
    if setting is None:
        return None
    if setting != "auto":
        state = checked(setting, roots)
        if not insist:
            refuse_other_settings(state, signature)
        return Resume(state, insist, [key for key, _, _ in differences(state.signature, signature)])
    state = _newest(roots, signature, say)
    say(f"resume: step {state.step} of {state.path}" if state else "resume: no state of these settings; a fresh start")
    return Resume(state, insist) if state else None


def checked(path: str, roots: Iterable[Path]) -> State:
    """The state at a path, whole; a UserError names the last valid one where it is not."""
    folder = Path(path).expanduser()
    folder = folder.parent if folder.name == TENSORS else folder
    try:
        return read(folder).check()
    except DamagedState as why:
        near = [place for place in (folder, folder / "states", folder.parent) if place.name == "states"]
        last = last_valid(near) or last_valid(roots)
        remedy = f"the last valid one is {last.path}" if last else "there is no valid one; start without resume"
        raise user_error("resume", f"'{path}' {why}", remedy) from None


def _newest(roots: Iterable[Path], signature: Signature, say: Say) -> State | None:
    for path in below(roots):
        try:
            state = read(path)
            if state.signature == signature:
                return state.check()
        except DamagedState as why:
            say(f"resume: {path} {why}; looking for the one before")
    return None


def refuse_other_settings(state: State, signature: Signature) -> None:
    """Raises a UserError that lists the settings which differ from the state's."""
    if found := differences(state.signature, signature):
        remedy = "give the state's settings, or resume_force=true to go on with the new ones"
        raise UserError(
            Problem("resume", f"{state.path} was made with other settings", remedy),
            *(Problem(key, _words(key, then, now)) for key, then, now in found),
        )


def _words(key: str, then: str, now: str) -> str:
    return "is not the same" if key in CONTENT else f"is {now}, in the state {then}"
