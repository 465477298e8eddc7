"""`loralab inspect`: what is in an adapter file or a model file."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from loralab.adapters import file
from loralab.adapters.keys import EMBEDDING
from loralab.adapters.kinds import Group
from loralab.adapters.layouts import layout_of
from loralab.adapters.multiplied import Multiplied
from loralab.errors import user_error
from loralab.files import printable
from loralab.models.checkpoint import examine
from loralab.models.probe import ADAPTER_PARTS, look_at_base
from loralab.models.registry import Row, of_adapter, with_miniatures
from loralab.models.weights import read
from loralab.progress import progress
from loralab.tools import adapter

LARGE = 4 << 30
"""Bytes; the values of larger files are not read, so their norms are not shown."""


@dataclass
class Report:
    """What a file contains, as plain values."""

    path: str
    bytes: int
    format: str
    """safetensors or pickle, whatever the extension"""
    content: str
    """adapter, embedding or model"""
    family: str | None
    tensors: int
    parameters: int
    precisions: dict[str, int]
    """Number of tensors by precision."""
    summary: str = ""
    layout: str | None = None
    kinds: dict[str, int] = field(default_factory=dict)
    """Number of layers by kind of adapter."""
    ranks: dict[str, int] = field(default_factory=dict)
    alphas: dict[str, int] = field(default_factory=dict)
    blocks: dict[str, dict[str, float]] = field(default_factory=dict)
    """Part and block → number of layers, mean and largest norm of their changes."""
    notes: list[str] = field(default_factory=list)
    """About other contents of the file."""
    problems: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)


def inspect(path: Path, allow: Sequence[str] = ()) -> Report:
    """Describes a file. Raises a UserError for one that is not found, is damaged, or contains code."""
    if not path.is_file():
        remedy = "give a file; of a diffusers folder, see its model_index.json" if path.is_dir() else "check the path"
        raise user_error("FILE", f"'{path}' {'is a folder' if path.is_dir() else 'not found'}", remedy)
    adapter.know(path, allow)
    tensors, index = read(path, "FILE"), examine(path, "FILE")
    report = Report(
        path=str(path),
        bytes=path.stat().st_size,
        format=index.format,
        content="model",
        family=None,
        tensors=len(tensors),
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        precisions=dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())),
        metadata=index.metadata,
    )
    found = file.look(path, setting="FILE", values=report.bytes <= LARGE)
    report.notes = found.notes
    if found.groups or any(part in name for name in tensors for part in ADAPTER_PARTS):
        report.content, report.layout = "adapter", layout_of(tensors)
        report.problems = [f"{problem.found} → {problem.remedy}" for problem in found.problems]
        _describe(report, found.groups)
    elif any(map(EMBEDDING.match, tensors)):
        report.content = "embedding"
    else:
        report.family = look_at_base(path, needs=(), setting="FILE").family
    report.summary = _summary(report, found.groups)
    return report


def _summary(report: Report, groups: Mapping[str, Group]) -> str:
    """What the file is, and how it was trained as far as its metadata say."""
    titles = {row.name: row.title for row in with_miniatures()}
    family = titles.get(report.family or "", "a model of an unknown family")
    size = f"{report.bytes / 1e6:,.1f} MB, {_listed(report.precisions)}"
    if report.content != "adapter":
        return f"{report.content}{f', {family}' if report.content == 'model' else ''}; {size}"
    kinds = " + ".join(report.kinds) or "unreadable"
    row = of_adapter(groups)
    parts = Counter(block_of(name, row).split()[0] for name in groups)
    where = " and ".join(f"{count} modules of the {row.parts[part].words}" for part, count in parts.items())
    strength = f", {'rank ' * bool(report.alphas)}{_listed(report.ranks)}" if groups else ""
    strength += f", alpha {_listed(report.alphas)}" if report.alphas else ""
    return f"{kinds} adapter for {family}{strength}{f'; {where}' if where else ''}; {size}{_training(report.metadata)}"


def _training(metadata: Mapping[str, str]) -> str:
    """How an adapter was trained, from sd-scripts' metadata."""
    facts = {
        "on {} images": metadata.get("ss_num_train_images"),
        "{} steps": metadata.get("ss_steps") or metadata.get("ss_max_train_steps"),
        "learning rate {}": metadata.get("ss_learning_rate"),
        "base {}": metadata.get("ss_sd_model_name"),
    }
    words = [pattern.format(value) for pattern, value in facts.items() if value not in (None, "", "None")]
    return f"; trained {', '.join(words)}" if words else ""


def _describe(report: Report, groups: Mapping[str, Group]) -> None:
    report.family, row = family_of(groups), of_adapter(groups)
    report.kinds = dict(Counter(group.kind.__name__ for group in groups.values()))
    report.ranks = _counted(group.kind.size(group.tensors) for group in groups.values())
    scaled = [group for group in groups.values() if not issubclass(group.kind, Multiplied)]
    report.alphas = _counted(f"{group.alpha:g}" for group in scaled)
    if report.bytes > LARGE:
        report.problems.append("norms were not computed, as the file is larger than 4 GiB")
        return
    blocks: dict[str, list[float]] = {}
    with progress("reading", len(groups), "layers") as advance:
        for name, group in groups.items():
            report.problems += _problems(name, group)
            blocks.setdefault(block_of(name, row), []).append(group.norm)
            advance(1)
    report.blocks = {
        block: {"layers": len(norms), "mean": sum(norms) / len(norms), "largest": max(norms)}
        for block, norms in blocks.items()
    }


def _problems(name: str, group: Group) -> list[str]:
    empty = [tensor for tensor, value in group.tensors.items() if tensor not in group.kind.flags and not value.any()]
    out = [f"{name}: {tensor} is all zeros and has no effect" for tensor in empty]
    return out if group.scale else [*out, f"{name}: alpha is 0, so it has no effect"]


def family_of(groups: Mapping[str, Group]) -> str | None:
    """The family: by the width of the text states that its cross-attention reads, else by the names of the layers."""
    row = of_adapter(groups)
    if row.context is None:
        return row.name
    widths = {row.context: row.name for row in with_miniatures() if row.context}
    for name, group in groups.items():
        if name.endswith(("attn2_to_k", "attn2_to_v")) and group.shape[1]:
            return widths.get(group.shape[1])
    if row.adapter_has:
        return row.name
    width = next((max(g.shape) for name, g in groups.items() if name.endswith("q_proj")), None)
    return widths.get(width or 0)


def block_of(name: str, row: Row) -> str:
    """The block of a module: `text_encoder`, or with the part in front: `down 1`, `mid`, `output 4`, `3` …"""
    prefixes = sorted(row.parts, key=lambda part: len(row.parts[part].prefix), reverse=True)
    part = next((part for part in prefixes if name.startswith(f"{row.parts[part].prefix}_")), row.denoiser)
    if part.startswith("text_encoder"):
        return part
    match = re.search(r"_(?:(down|up|mid|input|middle|output|single)_)?(?:transformer_)?blocks?(?:_(\d+))?", name)
    return part if match is None else " ".join(filter(None, (part, match[1], match[2])))


def _counted(values) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items(), key=lambda item: -item[1])}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="an adapter file or a single-file model")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    adapter.add_allow(parser)


def main(args: Namespace) -> None:
    report = inspect(args.file.expanduser(), args.allow)
    if args.json:
        print(json.dumps(asdict(report), indent=1))  # ASCII: no control characters reach the terminal
    else:
        _print(report)


def _print(report: Report) -> None:
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(printable(f"{report.path}: {report.summary}"), style="bold")
    facts = {
        "size": f"{report.bytes / 1e6:,.1f} MB, {report.tensors} tensors, {report.parameters:,} parameters",
        "format": " ".join(filter(None, (report.format, report.layout))),
        "precision": _listed(report.precisions),
        "rank" if report.alphas else "size": _listed(report.ranks),
        "alpha": _listed(report.alphas),
    }
    for name, value in facts.items():
        if value:
            console.print(f"  {name:10}{value}")
    if report.blocks:
        console.print(_norms(report))
    more = [f"and {len(report.problems) - 20} more"] if len(report.problems) > 20 else []
    for problem in [*report.notes, *report.problems[:20], *more]:
        console.print(printable(f"  ! {problem}"), style="yellow")
    for key, value in sorted(report.metadata.items()):
        console.print(printable(f"  {key}: {value if len(value) < 200 else value[:200] + ' …'}"))


def _listed(counts: Mapping[str, int]) -> str:
    """One value alone, several with their counts: 16 (×190), 8 (×2)."""
    return ", ".join(counts) if len(counts) < 2 else ", ".join(f"{value} (×{n})" for value, n in counts.items())


def _norms(report: Report) -> Table:
    table = Table("block", "layers", "mean norm", "largest", box=None, padding=(0, 2))
    for block, norms in report.blocks.items():
        table.add_row(block, f"{norms['layers']:.0f}", f"{norms['mean']:.4f}", f"{norms['largest']:.4f}")
    return table
