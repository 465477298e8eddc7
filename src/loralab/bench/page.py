"""docs/benchmarks.md and its plots, from the results in docs/benchmarks: nothing in it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader, Undefined

from loralab.bench.plot import Points, plot
from loralab.writing import atomic_path

PAGE = "benchmarks.md"
RESULTS = "benchmarks"
"""The folder beside it with a JSON file for each benchmark: its command, the machine, and what it printed. Those of
further machines are in folders of their own."""
PLOTS = "images/benchmarks"
"""What their files begin with."""
GROWTH = {"images": "images of the data set", "batch": "images per batch", "pixels": "pixels", "tokens": "tokens"}


def write(docs: Path) -> None:
    """Writes page and plots into the folder of the docs."""
    results = read(docs)
    (docs / PLOTS).parent.mkdir(exist_ok=True)
    for name, text in {PAGE: text_of(results, further(docs)), **plots(results)}.items():
        with atomic_path(docs / name, "--docs") as beside:
            beside.write_text(text, encoding="utf8")


def read(docs: Path, machine: str = "") -> dict[str, Any]:
    """The results by name."""
    files = sorted((docs / RESULTS / machine).glob("*.json"))
    return {file.stem: json.loads(file.read_text(encoding="utf8")) for file in files}


def further(docs: Path) -> dict[str, dict[str, Any]]:
    """The results of further machines."""
    return {folder.name: read(docs, folder.name) for folder in sorted((docs / RESULTS).iterdir()) if folder.is_dir()}


def text_of(results: dict[str, Any], further: dict[str, dict[str, Any]]) -> str:
    loader = PackageLoader("loralab", "assets/pages")
    pages = Environment(loader=loader, undefined=ChainableUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters |= {"machine": machine, "figure": figure, "milliseconds": milliseconds}
    given = {"results": results, "further": further, "plots": plots(results), "prefix": PLOTS, "growth": GROWTH}

    def having(names: list[str], figure: str) -> list[str]:
        """Of these benchmarks of training those that measured this."""
        return [name for name in names if name in results and figure in results[name]["result"]["loralab"]]

    return pages.get_template(PAGE).render(**given, having=having) + "\n"


def plots(results: dict[str, Any]) -> dict[str, str]:
    """SVG by file."""
    found: dict[str, str] = {}
    if "growth" in results:
        for kind, words in GROWTH.items():
            rows = results["growth"]["result"][kind]
            line: Points = [(row["value"], row["seconds_per_step"]) for row in rows]
            found[f"{PLOTS}-{kind}.svg"] = plot({"": line}, words, "seconds per step")
    if "images" in results:
        found[f"{PLOTS}-index.svg"] = plot(
            _by_images(results["images"]["result"]), "images", "seconds", logarithmic=True
        )
    return found


def _by_images(result: dict[str, Any]) -> dict[str, Points]:
    """What is done once for a data set, by its number of images; what took less than a clock's tick is left out."""
    index, sampler = result["index"], result["sampler"]
    lines = {
        "index, cold": [(row["images"], row["cold"]["seconds"]) for row in index],
        "index, warm": [(row["images"], row["warm"]["seconds"]) for row in index],
        "epochs planned": [(row["images"], row["plan"]["seconds"]) for row in sampler],
        "an epoch sampled": [(row["images"], row["epoch"]["seconds"]) for row in sampler],
    }
    return {name: [p for p in points if p[1] > 0] for name, points in lines.items() if any(p[1] > 0 for p in points)}


def machine(of: dict[str, Any]) -> str:
    """One line: processor, instructions, memory, GPUs, versions."""
    words = [f"{of['cpu']}, {of['cores']} cores"]
    words += [f"{of['threads']} thread{'s' if of['threads'] > 1 else ''}"] if of.get("threads") else []
    words += [" ".join(of["flags"])] if of.get("flags") else []
    words += [f"{of['memory_gb']} GB"] if of.get("memory_gb") else []
    versions = ", ".join(f"{name} {version}" for name, version in of["versions"].items())
    return " · ".join([*words, *of["gpus"], *([versions] if versions else [])])


def figure(value: float | Undefined | None) -> str:
    """Three significant digits, without an exponent; nothing of what an older result lacks."""
    if value is None or isinstance(value, Undefined):
        return ""
    if abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{float(f'{value:.3g}'):f}".rstrip("0").rstrip(".")


def milliseconds(seconds: float | Undefined) -> str:
    return "" if isinstance(seconds, Undefined) else f"{figure(seconds * 1000)} ms"
