"""The table of memory settings in docs/memory.md."""

from __future__ import annotations

import pytest

from loralab.memory.table import lines
from tests import ROOT


@pytest.mark.slow
@pytest.mark.parametrize("model", [pytest.param("sd15", marks=pytest.mark.ci), "anima"])
def test_the_documented_figures_are_those_that_are_counted(model: str) -> None:
    documented = (ROOT / "docs" / "memory.md").read_text(encoding="utf8").splitlines()
    for line in lines([model], [512]):
        assert line in documented
