"""The page of runs with scores, in a real browser: the highest is the best there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.browser import CHROMIUM, Browser
from tests.support.reports import report, variant
from tests.support.runs import command, record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ci,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]
SCORES = {(1e-4, 0): 0.21, (1e-4, 1): 0.25, (1e-3, 0): 0.31, (1e-3, 1): 0.34}
"""By learning rate and seed."""


@pytest.fixture(scope="module")
def browser(random_base: Path, tmp_path_factory: pytest.TempPathFactory):
    """Four runs, whose scores are as above and whose losses are the other way round."""
    folder = tmp_path_factory.mktemp("page")
    run = command(random_base, folder / "run", "data/validation=split")
    for i, ((rate, seed), score) in enumerate(SCORES.items()):
        point = variant(run, folder / "runs" / str(i), optimizer__lr=rate, seed=seed)
        facts = record(point)
        facts["metrics"] |= {"score/prompt": score, "validation/loss": score}
        (point / "run.json").write_text(json.dumps(facts))
    report(folder / "runs", "--metric", "score/prompt")
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.look(1400, 900)
        browser.open(folder / "runs" / "report" / "index.html")
        yield browser
        assert not browser.said


def test_the_result_is_the_highest_mean(browser: Browser) -> None:
    assert (
        browser.js("document.querySelector('.verdict').textContent")
        == "Highest score/prompt: 0.325 ± 0.021 with lr=1e-3"
    )
    rows = browser.js("[...document.querySelectorAll('#seeds tbody tr')].map(row => row.lastChild.textContent)")
    assert rows[0] == "highest"
    assert rows[1] in ("worse", "not distinguishable")


def test_scores_are_columns_that_sort_and_filter(browser: Browser) -> None:
    bold = "document.querySelector('#table strong')"
    assert browser.js(f"[{bold}.textContent, {bold}.title]") == ["0.34", "the highest"]
    head = "[...document.querySelectorAll('#table thead button')].map(button => button.textContent)"
    assert "score/prompt" in browser.js(head)
    assert "score/images" not in browser.js(head)
    browser.js(
        "{ const filter = document.getElementById('filter'); filter.value = 'score/prompt>0.3';"
        " filter.dispatchEvent(new Event('input')) }"
    )
    assert browser.js("document.getElementById('count').textContent") == "2 of 4"
    browser.js(
        "{ const filter = document.getElementById('filter'); filter.value = '';"
        " filter.dispatchEvent(new Event('input')) }"
    )


def test_the_heat_map_frames_the_highest_score_and_the_lowest_loss(browser: Browser) -> None:
    best = "document.querySelector('#heatmap .best b').textContent"
    assert browser.js("document.getElementById('measure').value") == "score/prompt"
    assert float(browser.js(best)) == 0.34
    browser.js(
        "{ const measure = document.getElementById('measure'); measure.value = 'validation/loss';"
        " measure.dispatchEvent(new Event('change')) }"
    )
    assert float(browser.js(best)) == 0.21
