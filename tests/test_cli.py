"""The `loralab` command and its verbs."""

from __future__ import annotations

import pytest

from loralab import cli


@pytest.mark.parametrize("verb", [verb for verb in cli.VERBS if verb != cli.TRAIN])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    assert f"usage: loralab {verb}" in capsys.readouterr().out
