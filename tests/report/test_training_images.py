"""The training images in the page of a report: thumbnails of files that still match, captions as text."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.support.browser import CHROMIUM, Browser
from tests.support.reports import report, shown
from tests.support.runs import command

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def trained(random_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and its ten images, one of them with a hostile caption; copy it."""
    root = tmp_path_factory.mktemp("training_images")
    (root / "images").mkdir()
    for i in range(10):
        Image.new("RGB", (96, 64), (20 * i, 255 - 20 * i, 90)).save(root / "images" / f"{i}.png")
        (root / "images" / f"{i}.txt").write_text(f"a{i % 3}, b{i % 2}" if i else HOSTILE)
    words = ("data=folder", f"data.folder={root / 'images'}", "data.resolution=64", "data.buckets.step=8")
    command(random_base, root / "run", *words, "trainer.max_steps=24", "data.batch_size=4")
    return root


def cards(page: Path) -> dict[str, dict]:
    (run,) = shown(page)["runs"]
    return {card["name"].rpartition("/")[2]: card for group in run["images"]["groups"].values() for card in group}


def test_thumbnails_are_those_of_the_images_trained_on(trained: Path, tmp_path: Path) -> None:
    """One image is changed afterwards, one removed; the others are shown. A log that is gone hides the section."""
    run = shutil.copytree(trained / "run", tmp_path / "run")
    changed, removed = trained / "images" / "3.png", trained / "images" / "4.png"
    kept = changed.read_bytes(), removed.read_bytes()
    Image.new("RGB", (64, 64), "red").save(changed)
    removed.unlink()
    report(run, "--out", tmp_path / "report")
    changed.write_bytes(kept[0]), removed.write_bytes(kept[1])
    page = tmp_path / "report" / "index.html"
    found = cards(page)
    assert len(found) == 10
    assert {name for name, card in found.items() if card["thumbnail"] is None} == {"3.png", "4.png"}
    assert sum(card["samples"] for card in found.values()) == 80
    for name in ("0.png", "9.png"):
        with Image.open(
            tmp_path / "report" / "index_files" / "training_images" / f"{found[name]['thumbnail']}.webp"
        ) as t:
            wanted = (20 * int(name[0]), 255 - 20 * int(name[0]), 90)
            pixel = t.convert("RGB").resize((1, 1)).getpixel((0, 0))
        assert pixel == pytest.approx(wanted, abs=6)
    assert found["0.png"]["caption"] == HOSTILE
    assert HOSTILE not in page.read_text("utf8")
    shutil.rmtree(run / "losses")
    report(run, "--out", tmp_path / "report")
    assert shown(page)["runs"][0]["images"] is None
    assert not [*(tmp_path / "report").rglob("training_images/*")]


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")
def test_the_section_in_a_browser(trained: Path, tmp_path: Path) -> None:
    report(trained / "run", "--out", tmp_path / "report")
    with Browser(tmp_path / "profile") as browser:
        for width in (1400, 400):
            browser.look(width, 800, "dark")
            browser.open(tmp_path / "report" / "index.html")
            assert browser.js("document.documentElement.scrollWidth <= innerWidth")
        browser.js("document.getElementById('images').scrollIntoView()")
        loaded = (
            "Promise.all([...document.querySelectorAll('#images img')].map(i => (i.loading = 'eager', i.decode())))"
        )
        assert browser.js(f"{loaded}.then(all => all.length)") == 10
        captions = browser.js("[...document.querySelectorAll('#images .caption')].map(c => c.textContent)")
        assert HOSTILE in captions
        assert browser.js("document.querySelectorAll('#images .spark path').length") == 10
        assert browser.js("document.title") == "loralab report"
        assert browser.said == []
        assert all(url.startswith("file:") for url in browser.asked)
