"""docs/benchmarks.md is what `loralab bench all` writes from the results beside it, and nothing else."""

import json
import re
from pathlib import Path

import pytest

from loralab import cli
from loralab.bench import page
from loralab.bench.all import BENCHMARKS
from loralab.bench.plot import BOTTOM, LEFT, RIGHT, TOP, plot
from tests import ROOT

DOCS = ROOT / "docs"


def test_the_page_is_written_from_the_results() -> None:
    results, further = page.read(DOCS), page.further(DOCS)
    for found in (results, *further.values()):
        assert found.keys() <= BENCHMARKS.keys(), "of no benchmark"
    assert (DOCS / page.PAGE).read_text("utf8") == page.text_of(results, further), "loralab bench all --only NAME"
    there = {str(file.relative_to(DOCS)): file.read_text("utf8") for file in DOCS.glob(f"{page.PLOTS}-*.svg")}
    assert there == page.plots(results)


def test_every_figure_names_its_command_and_machine() -> None:
    text = (DOCS / page.PAGE).read_text("utf8")
    for results in (page.read(DOCS), *page.further(DOCS).values()):
        for name, found in results.items():
            assert f"- `{found['command']}`: {page.machine(found['machine'])}" in text, name


def bench(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "all", *words])
    assert (ended.value.code or 0) == code


def test_one_benchmark_refreshes_its_own_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    elsewhere = json.loads((DOCS / page.RESULTS / "columns.json").read_text("utf8"))
    elsewhere["machine"]["cpu"] = "a processor of 1971"
    (tmp_path / page.RESULTS).mkdir()
    kept = tmp_path / page.RESULTS / "columns.json"
    kept.write_text(json.dumps(elsewhere))
    bench("--quick", "--only", "images", "--docs", str(tmp_path))
    assert json.loads(kept.read_text()) == elsewhere
    text = (tmp_path / page.PAGE).read_text("utf8")
    assert "a processor of 1971" in text
    found = json.loads((tmp_path / page.RESULTS / "images.json").read_text("utf8"))
    assert found["command"] == BENCHMARKS["images"].quick
    assert f"| 1 000 | {page.figure(found['result']['index'][0]['cold']['seconds'])} |" in text
    assert "<svg" in (tmp_path / f"{page.PLOTS}-index.svg").read_text()


def test_results_of_a_further_machine_stand_beside_the_others(tmp_path: Path) -> None:
    (tmp_path / page.RESULTS).mkdir()
    own = (DOCS / page.RESULTS / "train-tiny.json").read_text("utf8")
    (tmp_path / page.RESULTS / "train-tiny.json").write_text(own)
    bench("--quick", "--only", "train-tiny", "--docs", str(tmp_path), "--machine", "small")
    assert (tmp_path / page.RESULTS / "train-tiny.json").read_text("utf8") == own
    found = json.loads((tmp_path / page.RESULTS / "small" / "train-tiny.json").read_text("utf8"))
    text = (tmp_path / page.PAGE).read_text("utf8")
    for each in (json.loads(own), found):
        assert f"| tiny, 64 px | {page.figure(each['result']['loralab']['seconds_per_step'])} |" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "trian-tiny"], "--only: unknown benchmark 'trian-tiny'\n    → did you mean 'train-tiny'?"),
        (["--docs", "nowhere"], "--docs: 'nowhere' is not a folder"),
    ],
)
def test_what_cannot_be_refreshed(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench(*words, code=1)
    assert said in capsys.readouterr().err


def places(svg: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)]


def test_a_plot_is_to_scale() -> None:
    linear = places(plot({"": [(0, 0), (50, 1), (100, 4)]}, "x", "y"))
    assert linear == [
        (LEFT, BOTTOM),
        (pytest.approx((LEFT + RIGHT) / 2), pytest.approx(BOTTOM - (BOTTOM - TOP) / 4)),
        (RIGHT, TOP),
    ]
    powers = places(plot({"": [(1, 0.01), (10, 0.1), (100, 1)]}, "x", "y", logarithmic=True))
    assert powers == [(LEFT, BOTTOM), ((LEFT + RIGHT) / 2, (BOTTOM + TOP) / 2), (RIGHT, TOP)]


@pytest.mark.parametrize(
    ("value", "text"), [(0.012345, "0.0123"), (2, "2"), (12345.6, "12 346"), (0.0, "0"), (99.96, "100"), (None, "")]
)
def test_figures_have_three_digits(value: float | None, text: str) -> None:
    assert page.figure(value) == text


@pytest.mark.slow
def test_growth_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    bench("--quick", "--only", "growth", "--docs", str(tmp_path))
    found = json.loads((tmp_path / page.RESULTS / "growth.json").read_text("utf8"))["result"]
    for kind, words in page.GROWTH.items():
        values = [row["value"] for row in found[kind]]
        assert values == sorted(set(values))
        assert all(row["seconds_per_step"] > 0 for row in found[kind])
        assert f"seconds per step by {words}" in (tmp_path / f"{page.PLOTS}-{kind}.svg").read_text()
    assert found["pixels"][1]["seconds_per_step"] > found["pixels"][0]["seconds_per_step"], "2.25 times as many"
