"""A report of a hundred runs in a real browser. Its times are printed: what they are depends on the machine."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from loralab.report.page import embedded_json
from tests.support.browser import CHROMIUM, Browser
from tests.support.reports import report, shown, variant
from tests.support.runs import command

EVERY = [*product(range(1, 6), range(1, 5), range(5))]
"""Learning rate, rank and seed of a hundred runs."""
PICTURES = 8, 10
"""Prompts and training steps of each."""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


@pytest.fixture
def runs(random_base: Path, tmp_path: Path):
    """runs(points) is a folder of as many runs, with their pictures."""

    def make(points: list[tuple[int, int, int]]) -> Path:
        words = ("callbacks.samples.enabled=true", "callbacks.samples.steps=1", "callbacks.samples.after=false")
        prompts = f"callbacks.samples.prompts={[f'a cat {i}' for i in range(PICTURES[0])]}"
        logged = ("data/validation=split", "trainer.log_every_n_steps=1")
        run = command(random_base, tmp_path / "run", *logged, *words, prompts)
        for rate, rank, seed in points:
            target = tmp_path / "runs" / f"{rate}-{rank}-{seed}"
            variant(run, target, PICTURES, optimizer__lr=rate / 1e4, adapter__rank=rank, seed=seed)
        return tmp_path / "runs"

    return make


@pytest.mark.slow
def test_a_hundred_runs_open_and_scroll(runs, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """100 runs × 8 prompts × 10 steps: thumbnails come as they are needed."""
    folder = runs(EVERY)
    report(folder)
    asked = look_through(folder / "report" / "index.html", tmp_path, capsys)
    assert asked < 400, "those far below the window are not loaded"


@pytest.mark.slow
@pytest.mark.ci
def test_a_page_of_a_hundred_runs_opens_and_scrolls(runs, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The same, without making as many: the values of two runs, over and over, with the pictures of these two."""
    folder = runs([(1, 1, 0), (2, 2, 1)])
    report(folder)
    page = folder / "report" / "index.html"
    values = shown(page)
    before, two = embedded_json(values), values["runs"]
    values["runs"] = [
        two[i % 2]
        | {"name": f"{rate}-{rank}-{seed}", "group": i // 5}
        | {"values": {"optimizer.lr": rate / 1e4, "adapter.rank": rank, "seed": seed}}
        for i, (rate, rank, seed) in enumerate(EVERY)
    ]
    values["groups"] = [values["groups"][i % 2] for i in range(20)]
    text = page.read_text("utf8")
    assert before in text
    page.write_text(text.replace(before, embedded_json(values)), "utf8")
    look_through(page, tmp_path, capsys)


def look_through(page: Path, folder: Path, capsys: pytest.CaptureFixture) -> int:
    """Opens a page of a hundred runs and scrolls through its pictures; returns how many files opening it took."""
    with Browser(folder / "profile") as browser:
        browser.look(1400, 900)
        browser.asked.clear()
        browser.open(page)
        ready = browser.js("performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart")
        assert browser.js("document.querySelectorAll('#sheet .shot').length") == 800
        asked = len(browser.asked)
        usual, slowest = browser.js(SCROLL)
        drawn = browser.js("{ const t = performance.now(); showStep(4); performance.now() - t }")
        assert browser.said == []
    with capsys.disabled():
        print(f"\n100 runs: open after {ready} ms, slider {drawn:.0f} ms, frames of a scroll {usual:.0f} ms", end="")
        print(f" (the slowest {slowest:.0f} ms)")
    return asked


SCROLL = """new Promise(done => {
  const times = [];
  let last = performance.now();
  const step = now => {
    times.push(now - last);
    last = now;
    scrollBy(0, 120);
    const sheet = document.getElementById('sheet');
    sheet.scrollBy(0, 60);
    if (sheet.scrollTop < 6000) requestAnimationFrame(step);
    else done([times.sort((a, b) => a - b)[times.length >> 1], times[times.length - 1]]);
  };
  document.getElementById('pictures').scrollIntoView();
  requestAnimationFrame(step);
})"""
