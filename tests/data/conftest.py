"""Fixtures of the tests of data."""

from __future__ import annotations

import os

import pytest

from loralab.data import images
from loralab.data.index import catalog


@pytest.fixture
def headers_read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose headers are read."""
    read: list[str] = []
    header = images.header

    def counted(path: bytes) -> images.Header:
        read.append(os.path.basename(os.fsdecode(path)))
        return header(path)

    monkeypatch.setattr(catalog.images, "header", counted)
    return read
