"""The doctor's page in a real browser: it opens without an error, and shows what it holds."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loralab import cli
from loralab.schema.compose import PACKAGE
from tests.support.browser import CHROMIUM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ci,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


def opened(page: Path, tmp_path: Path) -> tuple[str, np.ndarray]:
    """The text of the page as the browser has it, and a picture (H, W, 3) of what it shows."""
    shot = tmp_path / "shot.png"
    words = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1100,900", page.as_uri()]
    dom = subprocess.run([*words, "--dump-dom", "--enable-logging=stderr"], capture_output=True, text=True, check=True)
    assert "CONSOLE" not in dom.stderr
    subprocess.run([*words, f"--screenshot={shot}"], capture_output=True, check=True)
    return re.sub(r"<[^>]*>", " ", dom.stdout.partition("</style>")[2]), np.array(Image.open(shot).convert("RGB"))


def test_the_doctors_page(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = PACKAGE / "assets" / "shapes" / "reg"
    with pytest.raises(SystemExit):
        cli.main(["doctor", str(images), "--html", str(tmp_path / "doctor.html")])
    text, shown = opened(tmp_path / "doctor.html", tmp_path)
    assert "ready to train" in text
    assert "64 × 64" in text
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 50, "text, bars and boxes are drawn"
