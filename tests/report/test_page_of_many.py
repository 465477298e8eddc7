"""A report of a hundred runs in a real browser. Its times are printed: what they are depends on the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.browser import CHROMIUM, Browser
from tests.support.reports import report, variant
from tests.support.runs import command


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_a_hundred_runs_open_and_scroll(random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """100 runs × 8 prompts × 10 steps: thumbnails come as they are needed."""
    words = ("callbacks.samples.enabled=true", "callbacks.samples.steps=1", "callbacks.samples.after=false")
    prompts = f"callbacks.samples.prompts={[f'a cat {i}' for i in range(8)]}"
    run = command(
        random_base, tmp_path / "run", "data/validation=split", "trainer.log_every_n_steps=1", *words, prompts
    )
    every = [(rate, rank, seed) for rate in range(1, 6) for rank in range(1, 5) for seed in range(5)]
    for rate, rank, seed in every:
        name = f"{rate}-{rank}-{seed}"
        variant(run, tmp_path / "runs" / name, (8, 10), optimizer__lr=rate / 1e4, adapter__rank=rank, seed=seed)
    report(tmp_path / "runs")
    with Browser(tmp_path / "profile") as browser:
        browser.look(1400, 900)
        browser.asked.clear()
        browser.open(tmp_path / "runs" / "report" / "index.html")
        ready = browser.js("performance.timing.domContentLoadedEventEnd - performance.timing.navigationStart")
        assert browser.js("document.querySelectorAll('#sheet .shot').length") == 800
        assert len(browser.asked) < 400, "those far below the window are not loaded"
        usual, slowest = browser.js(SCROLL)
        drawn = browser.js("{ const t = performance.now(); showStep(4); performance.now() - t }")
    with capsys.disabled():
        print(f"\n100 runs: open after {ready} ms, slider {drawn:.0f} ms, frames of a scroll {usual:.0f} ms", end="")
        print(f" (the slowest {slowest:.0f} ms)")


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
