"""The verbs of `loralab`, in this process."""

from __future__ import annotations

import pytest

from loralab import cli


def loralab(*words: object, code: int = 0) -> None:
    """Runs a verb; the exit code must be `code`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["loralab"])
        with pytest.raises(SystemExit) as end:
            cli.main([*map(str, words)])
    assert (end.value.code or 0) == code
