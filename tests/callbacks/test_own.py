"""A callback that a user writes, in a package of their own."""

from __future__ import annotations

import sys

import pytest

from tests.support.contributing import shown


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "own_callbacks.py").write_text(shown("Note"))
    monkeypatch.syspath_prepend(tmp_path / "own")
    yield
    sys.modules.pop("own_callbacks", None)


def test_that_of_contributing(package, train):
    run = train("+callbacks.note._target_=own_callbacks.Note", "+callbacks.note.every=2", "allow=[own_callbacks.]")
    assert (run / "note.txt").read_text() == "step 2, epoch and batch (0, 2)"


def test_one_that_is_not_there(package, train, capsys):
    train("+callbacks.note._target_=own_callbacks.Notes", "allow=[own_callbacks.]", code=1)
    assert "_target_=own_callbacks.Notes: could not be imported" in (said := capsys.readouterr().err)
    assert "Traceback" not in said
