"""The page of a report in a real browser: it sorts, filters, enlarges and steps, and asks nobody for anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from loralab.callbacks.contact_sheet import save
from tests.support.browser import CHROMIUM, Browser
from tests.support.reports import report, shown, variant
from tests.support.runs import command

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ci,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def page(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight runs of two rates, two ranks and two seeds, made from a real one whose second prompt is markup."""
    folder = tmp_path_factory.mktemp("page")
    quoted = HOSTILE.replace("'", "\\'")
    pictures = ("callbacks.samples.enabled=true", "callbacks.samples.steps=1", "callbacks.samples.every_n_steps=1")
    prompts = f"callbacks.samples.prompts=['a cat','{quoted}']"
    run = command(
        random_base, folder / "run", "data/validation=split", "trainer.log_every_n_steps=1", *pictures, prompts
    )
    every = [(rate, rank, seed) for rate in (1e-4, 1e-3) for rank in (4, 16) for seed in (0, 1)]
    for i, (rate, rank, seed) in enumerate(every):
        settings = {"optimizer__lr": rate, "adapter__rank": rank, "seed": seed, "output__comment": HOSTILE + str(i)}
        variant(run, folder / "runs" / str(i), (2, 4), **settings)
    sheet = Image.new("RGB", (300, 200), "red")
    save(sheet, folder / "runs" / "grid.png", "", Software="loralab grid", Title=HOSTILE)
    report(folder / "runs")
    return folder / "runs" / "report" / "index.html"


@pytest.fixture(scope="module")
def opened(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        browser.look(1400, 900)
        yield browser


@pytest.fixture
def browser(opened: Browser, page: Path) -> Iterator[Browser]:
    """The page, freshly opened. In the end it has said nothing, and asked for nothing but its own files."""
    opened.said.clear()
    opened.asked.clear()
    opened.open(page)
    yield opened
    assert not opened.said
    assert all(url.startswith((page.parent.as_uri(), "data:")) for url in opened.asked)
    assert opened.js("document.title") == "loralab report"


def names(browser: Browser) -> list[str]:
    return browser.js(
        "[...document.querySelectorAll('#table tbody tr')].map(r => r.querySelector('.name').lastChild.data)"
    )


def put(browser: Browser, control: str, value: object, event: str = "input") -> None:
    find = f"const control = document.getElementById('{control}')"
    browser.js(f"{{ {find}; control.value = {value!r}; control.dispatchEvent(new Event('{event}')) }}")


def test_a_click_on_a_heading_sorts(browser: Browser, page: Path) -> None:
    heading = "[...document.querySelectorAll('#table thead button')].find(b => b.textContent === 'validation loss')"
    losses = {run["name"]: run["figures"]["validation/loss"] for run in shown(page)["runs"]}
    assert names(browser) == [str(i) for i in range(8)]
    browser.js(f"{heading}.click()")
    assert names(browser) == sorted(losses, key=losses.__getitem__)
    browser.js(f"{heading}.click()")
    assert names(browser) == sorted(losses, key=losses.__getitem__, reverse=True)
    assert (
        browser.js(f"{heading}.closest('th').ariaSort ?? {heading}.closest('th').getAttribute('aria-sort')")
        == "descending"
    )


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("rank=16", "2367"),
        ("rank=16 lr<1e-3", "23"),
        ("optimizer.lr>=0.001 seed!=0", "57"),
        ("diverged", ""),
        ("finished", "01234567"),
    ],
)
def test_the_filter_counts_for_table_curves_and_pictures(browser: Browser, words: str, left: str) -> None:
    put(browser, "filter", words)
    assert "".join(names(browser)) == left
    assert browser.js("document.getElementById('count').textContent") == f"{len(left)} of 8"
    drawn = "new Set([...document.querySelectorAll('{}')].map(e => e.dataset.run)).size"
    assert browser.js(drawn.format("#plots path")) == len(left)
    assert browser.js(drawn.format("#sheet .shot")) == len(left)


def test_curves_are_smoothed_by_the_slider_and_named_under_the_pointer(browser: Browser) -> None:
    path = "document.querySelector('#plots path:not(.faint)').getAttribute('d')"
    before = browser.js(path)
    browser.js("document.getElementById('smoothing').focus()")
    browser.press("ArrowRight")
    assert browser.js("document.getElementById('smoothing-value').textContent") == "0.61"
    assert browser.js(path) != before
    assert browser.js("document.querySelectorAll('#plots svg').length") == 4, "two losses, the gap, the rate"
    assert browser.js("document.querySelectorAll('#plots .mark-best').length") == 16
    browser.js("document.getElementById('plots').scrollIntoView({ block: 'center' })")
    x, y = browser.js(
        "(() => { const line = document.querySelector('#plots path:not(.faint)'), at = line.getPointAtLength(1),"
        " box = line.ownerSVGElement.getBoundingClientRect(); return [box.x + at.x, box.y + at.y] })()"
    )
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    assert browser.js("document.querySelector('.tip:not([hidden])').textContent").startswith("0lr=1e-4")
    assert browser.js("document.querySelectorAll('#table tr.hot').length") == 1


def test_pictures_are_enlarged_and_stepped_through_by_keyboard(browser: Browser, page: Path) -> None:
    large = "document.getElementById('large').src.split('/').slice(-2).join('/')"
    media = [run["media"].rpartition("/")[2] for run in shown(page)["runs"]]
    browser.js("document.querySelectorAll('#sheet .shot')[2].focus()")
    browser.js("document.activeElement.click()")
    assert browser.js("document.getElementById('viewer').open")
    assert browser.js(large) == f"{media[1]}/step00000300-00.png"
    browser.press("ArrowRight")
    assert browser.js(large) == f"{media[1]}/step00000300-01.png"
    browser.press("ArrowDown")
    assert browser.js(large) == f"{media[1]}/step00000200-01.png"
    browser.js("document.getElementById('viewer-step').focus()")
    put(browser, "viewer-step", 0)
    assert browser.js(large) == f"{media[1]}/step00000000-01.png"
    assert browser.js("document.getElementById('large').decode().then(() => true)"), "it is there"
    assert browser.js("document.getElementById('legend').textContent").startswith(HOSTILE)
    browser.js("{ window.ended = new Promise(r => document.getElementById('viewer').addEventListener('close', r)); 0 }")
    browser.press("Escape")
    browser.js("window.ended.then(() => 0)")
    assert not browser.js("document.getElementById('viewer').open")
    assert browser.js("[...document.querySelectorAll('#sheet .shot')].indexOf(document.activeElement)") == 3


def test_the_slider_goes_through_the_training_steps(browser: Browser) -> None:
    browser.js("document.getElementById('step').focus()")
    browser.press("ArrowLeft")
    assert browser.js("document.getElementById('step-value').textContent") == "200 of 300"
    sources = browser.js("[...document.querySelectorAll('#sheet img')].map(i => i.getAttribute('src').slice(-16))")
    assert sources == ["00000200-00.webp", "00000200-01.webp"] * 8
    assert "step 200" in browser.js("document.querySelector('#sheet img').alt")


def test_two_settings_become_the_axes(browser: Browser, page: Path) -> None:
    browser.js("document.querySelector('[name=layout][value=xy]').click()")
    cells = "[...document.querySelectorAll('{} tbody tr')].map(r => [...r.children].map(c => c.{}))"
    names = browser.js(cells.format("#sheet", "textContent"))
    assert [row[0] for row in names] == ["rank=4", "rank=16"]
    runs = browser.js(cells.format("#sheet", "querySelectorAll('.shot').length"))
    assert runs == [[0, 2, 2], [0, 2, 2]], "both seeds in each cell"
    put(browser, "prompt", 1, "change")
    assert browser.js("document.querySelector('#sheet img').alt").startswith(HOSTILE)
    losses = [run["figures"]["validation/loss"] for run in shown(page)["runs"]]
    means = [sum(losses[i : i + 2]) / 2 for i in range(0, 8, 2)]
    heat = browser.js("[...document.querySelectorAll('#heatmap .cell b')].map(b => Number(b.textContent))")
    assert heat == pytest.approx([means[0], means[2], means[1], means[3]], rel=1e-3)
    lowest = browser.js("document.querySelector('#heatmap .best b').textContent")
    assert float(lowest) == pytest.approx(min(means), rel=1e-3)
    put(browser, "heat-y", "seed", "change")
    assert browser.js(cells.format("#heatmap", "textContent"))[1][0] == "seed=1"


def test_the_diff_of_two_runs_and_the_command_of_each(browser: Browser) -> None:
    put(browser, "one", 0, "change")
    put(browser, "other", 6, "change")
    rows = browser.js(
        "[...document.querySelectorAll('#diff tbody tr')].map(r => [...r.children].map(c => c.textContent))"
    )
    assert rows[:2] == [["optimizer.lr", "1e-4", "1e-3"], ["adapter.rank", "4", "16"]]
    assert rows[2] == ["output.comment", f"{HOSTILE}0", f"{HOSTILE}6"]
    assert len(rows) == 3
    commands = browser.js("[...document.querySelectorAll('#commands code')].map(c => c.textContent)")
    assert commands[2].startswith("loralab train optimizer.lr=0.001 adapter.rank=16 seed=0")
    assert commands[3].startswith("loralab rerun /")
    assert commands[3].endswith("/runs/6")


def test_it_fits_a_phone_and_both_themes(opened: Browser, page: Path) -> None:
    """Nothing sticks out at 400 px, and every text has a contrast of at least 4.5 : 1 (WCAG AA)."""
    for theme in ("light", "dark"):
        opened.look(400, 800, theme)
        opened.open(page)
        assert opened.js("document.documentElement.scrollWidth <= innerWidth")
        assert opened.js(CONTRAST) == []
    assert opened.js("[...document.querySelectorAll('#sheet img')].every(i => i.alt)")
    named = "[...document.querySelectorAll('input, select')].every(c => c.labels.length)"
    assert opened.js(named)
    opened.look(1400, 900)


CONTRAST = """(() => {
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (colour, over) => {
    context.fillStyle = over; context.fillRect(0, 0, 1, 1);
    context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = c => c.map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = e => {
    for (let at = e; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
  };
  const low = [];
  for (const e of document.querySelectorAll('main *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    if (!own || !e.checkVisibility() || e.closest('svg, script, [aria-hidden]')) continue;
    const back = behind(e), one = light(rgb(getComputedStyle(e).color, '#fff')), other = light(rgb(back, '#fff'));
    const ratio = (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
    if (ratio < 4.5) low.push(`${e.tagName} ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return [...new Set(low)];
})()"""


def test_sheets_of_grids_are_shown_and_open_in_full(browser: Browser) -> None:
    assert browser.js("document.querySelector('#sheets img').alt") == f"Grid: {HOSTILE}"
    assert browser.js("(async () => { await document.querySelector('#sheets img').decode(); return 1 })()")
    assert browser.js("document.querySelector('#sheets a').href").endswith(".png")
    assert HOSTILE in browser.js("document.querySelector('#sheets figcaption').textContent")
