"""The summary of a run before it starts, and that of its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning import Trainer

from loralab.callbacks.early_stopping import EarlyStopping
from loralab.callbacks.pruning import Pruning
from loralab.data.module import DataModule
from loralab.files import digest_file
from loralab.optim.build import eight_bit
from loralab.stages import told
from loralab.training.memory_advice import peak_gigabytes
from loralab.training.module import LoraModule
from loralab.training.output import Output


def opening(module: LoraModule, data: DataModule, trainer: Trainer, output: Output, speed: str) -> str:
    """The plan of a run: images, buckets, batches, steps, what is trained, what is frozen, how fast it computes (see
    Speed), where files are written."""
    facts = data.summary()
    lines = [
        f"model     {module.family.name} · {module.family.base} · predicts {module.family.process.prediction}",
        f"images    {_images(facts)}",
        *(f"source    {source}" for source in facts["sources"]),
        f"buckets   {_buckets(facts)}",
        f"training  {_length(trainer, facts['batches'])} · {trainer.strategy.root_device} · {trainer.precision}",
        f"adapter   {_adapter(module)} · base model frozen{_held(module.run.settings['model'])}",
        f"optimizer {_optimizer(module)}",
        f"speed     {speed}",
        f"files     {output.path()}",
    ]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if hasattr(callback, "opening"):
            lines += callback.opening(module, data)
    lines += [f"note      {note}" for note in (*module.adapters.notes, *facts["notes"])]
    lines += [f"skipped   {words}" for words in _skipped(facts["skipped"])]
    return "\n".join(lines)


def _held(model: Mapping[str, Any]) -> str:
    """How the frozen weights are held, as far as it is a setting."""
    held = model.get("quantize") or model.get("dtype")
    return f" in {held}" if held else ""


def _skipped(skipped: list[dict[str, str]]) -> Iterator[str]:
    """A line per file; if more than three are skipped for the same reason, one line with their number."""
    reasons: dict[str, list[str]] = {}
    for each in skipped:
        reasons.setdefault(each["reason"], []).append(each["path"])
    for reason, paths in [*reasons.items()][:10]:
        if len(paths) > 3:
            yield f"{len(paths)} files: {reason} ({paths[0]} … see run.json)"
        else:
            yield from (f"{path}: {reason}" for path in paths)
    if more := sum(len(paths) for paths in [*reasons.values()][10:]):
        yield f"and {more} more: see run.json"


def ending(module: LoraModule, data: DataModule, trainer: Trainer, output: Output) -> dict[str, Any]:
    """The facts that run.json keeps."""
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    pace = module.run.pace
    return {
        "steps": trainer.global_step,
        "epochs": trainer.current_epoch,
        "start_seconds": module.run.stages.seconds,
        "training_seconds": round(pace.seconds, 3),
        "images": pace.images,
        "images_per_second": round(pace.rate, 3),
        "peak_memory_gb": round(peak_gigabytes(trainer.strategy.root_device), 3),
        "loss": metrics.get("loss_epoch", metrics.get("loss")),
        "metrics": metrics,
        "data": data.summary(),
        "adapter_notes": module.adapters.notes,
        "eight_bit": _eight_bit(trainer),
        "device": f"{trainer.strategy.root_device.type} × {trainer.world_size}",
        "files": [str(path) for path in output.written],
        "digests": {path.name: digest_file(path) for path in output.written if path.is_file()},
        "stopped": _stopped(trainer),
    }


def closing(facts: dict[str, Any], folder: Path) -> str:
    """One line for the end of a run, one for each adapter file, one for the run's folder and its other contents."""
    loss = "" if facts["loss"] is None else f" · loss {facts['loss']:.4f}"
    rate = f" · {facts['images_per_second']:.1f} images/s" if facts["images_per_second"] else ""
    lines = [f"{facts['status']}: {facts['steps']} steps in {facts['training_seconds']:.0f} s{loss}{rate}"]
    if eight_bit := facts["eight_bit"]:
        lines.append(
            f"  {eight_bit[0]} of {eight_bit[1]} tensors have an 8-bit optimizer state (32-bit below 4096 elements)"
        )
    if replaced := facts["data"]["replaced"]:
        lines.append(f"  {len(replaced)} images could not be read and were replaced: {replaced[0]} … see run.json")
    if start := facts.get("start_seconds"):
        lines.append(f"  first step after {told(start)}")
    lines += [f"  {path}" for path in [*facts["files"], *sorted(folder.glob("fit-profile*.txt"))]]
    lines += [f"  {facts['stopped']}"] if facts.get("stopped") else []
    with suppress(OSError):  # the folder may be gone
        others = ", ".join(sorted(path.name for path in folder.iterdir() if path.is_dir()))
        lines.append(f"  {folder}: {others}, run.json, train.log")
    lines += [f"  error: {error.splitlines()[0]}" for error in facts["errors"]]
    if facts["status"] == "interrupted" and (folder / "states").is_dir():
        lines.append("  to continue, run the same command with resume=auto")
    return "\n".join(lines)


def _stopped(trainer: Trainer) -> str | None:
    """When and why the run was stopped early."""
    callbacks = [c for c in trainer.callbacks if isinstance(c, (EarlyStopping, Pruning))]  # type: ignore[attr-defined]
    return next((callback.stopped for callback in callbacks if callback.stopped), None)


def _eight_bit(trainer: Trainer) -> tuple[int, int] | None:
    """(tensors that the optimizer keeps in 8 bits, tensors); None for other optimizers."""
    counts = eight_bit(trainer.optimizers[0])
    return counts if counts[0] else None


def _images(facts: dict[str, Any]) -> str:
    words = [f"{facts['images']} images, {facts['training_draws']} samples per epoch with repeats"]
    if facts["regularisation"]:
        words.append(
            f"{facts['regularisation']} regularisation images, {facts['draws'] - facts['training_draws']} samples"
        )
    if facts["held_out"]:
        words.append(f"{facts['held_out']} held out for validation")
    if facts["skipped"]:
        words.append(f"{len(facts['skipped'])} skipped")
    return " · ".join(words)


def _buckets(facts: dict[str, Any]) -> str:
    rows = [f"{'×'.join(map(str, row['size']))}: {row['images']}" for row in facts["buckets"]]
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return f"{len(rows)} ({', '.join(rows[:8])}{more}) · {facts['batches']} batches per epoch"


def length(trainer: Trainer, batches: int) -> tuple[int, float]:
    """Optimizer steps and epochs that a run is to take; batches: per epoch."""
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    windows = max(1, -(-batches // trainer.accumulate_grad_batches))
    steps = trainer.max_steps if trainer.max_steps > 0 else windows * (trainer.max_epochs or 0)
    return steps, steps / windows


def _length(trainer: Trainer, batches: int) -> str:
    steps, epochs = length(trainer, batches)
    accumulated = f" of {trainer.accumulate_grad_batches} batches" if trainer.accumulate_grad_batches > 1 else ""
    return f"{steps} optimizer steps{accumulated}, {epochs:.1f} epochs"


def _optimizer(module: LoraModule) -> str:
    kind = getattr(module.make_optimizer, "func", module.make_optimizer)
    rate = "sets its own learning rates" if module.lr is None else f"lr {module.lr:g}"
    return f"{getattr(kind, '__name__', kind)} · {rate}"


def _adapter(module: LoraModule) -> str:
    trained, frozen = Counter(), Counter()
    for name, adapter in module.adapters:
        part = module.adapters.sites[name].part
        parameters = sum(tensor.numel() for tensor in adapter.parameters())
        (trained if any(t.requires_grad for t in adapter.parameters()) else frozen)[part] += 1
        trained[f"{part} parameters"] += parameters
    parts = [
        f"{trained[part]} modules of {part} ({trained[f'{part} parameters'] / 1e6:.2f} M)"
        for part in module.family.parts()
        if trained[part]
    ]
    parts += [f"{count} modules of {part} frozen" for part, count in frozen.items()]
    return f"{type(next(iter(module.adapters))[1].method).__name__} on " + ", ".join(parts)
