"""Settings that contradict each other, or what they name on disk: each a rule of a few lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loralab.config.data_rules import data_problems
from loralab.errors import Problem, UserError
from loralab.models.probe import check
from loralab.training.resume import checked

Tree = dict[str, Any]


def contradictions(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> list[Problem]:
    """All that the rules find. A rule reads settings by get(), so that one misshapen node fails no other rule."""
    return [problem for rule in RULES for problem in rule(tree, choices, overrides)]


def get(tree: Tree, key: str, default: Any = None) -> Any:
    """The value at a dotted key, or the default where there is none."""
    node: Any = tree
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return default
        node = node[part]
    return node


def _folder_is_of_folder_data(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    given = [o for o in overrides if o.lstrip("+").startswith(("data.folder=", "data.folders=", "data.folders."))]
    if given and choices.get("data") == "shapes":
        yield Problem(given[0].split("=")[0], "the embedded images are chosen (data=shapes)", "add data=folder")


def _folders_are_there(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if get(tree, "data.folder") is None and not get(tree, "data.folders"):
        yield Problem("data.folder", "is missing", "give the folder of your images: data.folder=PATH")
    folders = [("data.folder", get(tree, "data.folder")), ("data.reg_folder", get(tree, "data.reg_folder"))]
    for i, entry in enumerate(get(tree, "data.folders") or []):
        if isinstance(entry, dict):
            folders.append((f"data.folders.{i}", entry.get("folder") or entry.get("path")))
    for key, folder in folders:
        if isinstance(folder, str) and not Path(folder).expanduser().is_dir():
            found = "is a file, not a folder" if Path(folder).expanduser().exists() else "is not there"
            yield Problem(key, f"'{folder}' {found}", "check the path; a relative path starts at " + os.getcwd())


def _base_model(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if isinstance(model := get(tree, "model"), dict):
        yield from check(model)


def _data(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if isinstance(data := get(tree, "data"), dict):
        yield from data_problems(data, sdxl=".sdxl." in str(get(tree, "model._target_")))


def _something_to_do(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if get(tree, "trainer.max_steps") is None and get(tree, "trainer.max_epochs") is None:
        yield Problem("trainer.max_steps", "neither steps nor epochs are set", "give trainer.max_epochs=10, say")
    if get(tree, "trainer.limit_train_batches") == 0:
        found = "is 0: there is no optimizer step to make"
        yield Problem("trainer.limit_train_batches", found, "raise it, or null for all batches")


def _timesteps(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    low, high = get(tree, "objective.timesteps.low"), get(tree, "objective.timesteps.high")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        remedy = "low is the first timestep, high the one after the last"
        yield Problem("objective.timesteps", f"low={low} is above high={high}", remedy)


def _warm_up(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    steps, ratio = get(tree, "scheduler.warmup_steps"), get(tree, "scheduler.warmup_ratio")
    if steps is not None and ratio:
        found = f"given as {steps} steps, and as warmup_ratio={ratio} of the run"
        yield Problem("scheduler.warmup_steps", found, "give one of the two: warmup_steps=null or warmup_ratio=0")


def _optimizer_of_device(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if on_cpu(tree) and ".Paged" in str(get(tree, "optimizer._target_")):
        yield Problem("optimizer", "a paged optimizer needs a GPU", "on a CPU take its plain kind: optimizer=adamw8bit")


def _precision_of_device(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if on_cpu(tree) and get(tree, "trainer.precision") == "16-mixed":
        yield Problem("trainer.precision", "16-mixed needs a GPU", "use bf16-mixed or 32-true on a CPU")
    if get(tree, "trainer.accelerator") in ("gpu", "cuda") and not has_accelerator():
        yield Problem("trainer.accelerator", "there is no GPU on this machine", "trainer=default picks what is there")


def _precision_of_base(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    dtype, precision = get(tree, "model.dtype"), get(tree, "trainer.precision")
    if (dtype, precision) in (("fp16", "bf16-mixed"), ("bf16", "16-mixed")):
        remedy = f"model.dtype=fp32 or model.dtype={'bf16' if dtype == 'fp16' else 'fp16'}"
        yield Problem("model.dtype", f"{dtype} contradicts trainer.precision={precision}", remedy)


def on_cpu(tree: Tree) -> bool:
    """Whether training will run on the CPU."""
    accelerator = get(tree, "trainer.accelerator")
    return accelerator == "cpu" or (accelerator == "auto" and not has_accelerator())


def has_accelerator() -> bool:
    """Whether the machine has a GPU, told by its device files: importing torch to ask would take seconds."""
    if sys.platform != "linux":
        return True  # torch decides, when it is loaded
    return any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/kfd").exists() or Path("/dev/dxg").exists()


def _cached_latents(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if get(tree, "data.cache.latents", "none") == "none":
        return
    for key, why in (("color", "colours are jittered before encoding"), ("random_crop", "a cached crop is fixed")):
        if key == "random_crop" and (get(tree, "data.cache.variants") or 1) > 1:
            continue
        if get(tree, f"data.augment.{key}"):
            remedy = f"data.cache.latents=none or data.augment.{key}=false"
            remedy += ", or data.cache.variants=4 to cache four crops" if key == "random_crop" else ""
            yield Problem(f"data.augment.{key}", f"contradicts data.cache.latents: {why}", remedy)


def _output_folder(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    for key in ("output.folder", "settings.save_folder"):
        folder = get(tree, key)
        if isinstance(folder, str) and (found := _unwritable(Path(folder).expanduser())):
            yield Problem(key, f"'{folder}' {found}", "choose a folder that you may write to")


def _unwritable(folder: Path) -> str | None:
    existing = next((p for p in (folder, *folder.parents) if p.exists()), Path("."))
    if not existing.is_dir():
        return f"cannot be a folder: {existing} is a file"
    return None if os.access(existing, os.W_OK | os.X_OK) else f"is not writable ({existing})"


def _plain_values(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    for key in ("resume", "resume_root"):
        if not isinstance(get(tree, key, ""), str | None):
            yield Problem(key, f"{get(tree, key)!r} does not fit", "valid: a path, auto, or null")
    for key in ("resume_force", "settings.save_only"):
        if not isinstance(get(tree, key, False), bool):
            yield Problem(key, f"{get(tree, key)!r} does not fit", "valid: true or false")
    seed = get(tree, "seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        yield Problem("seed", f"{seed!r} does not fit", "valid: a whole number")
    name = get(tree, "output.name")
    if isinstance(name, str) and (not name or "/" in name or "\\" in name):
        yield Problem("output.name", f"{name!r} is not a file name", "a name without folders or extension")


def _state_to_resume(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    path, root = get(tree, "resume"), get(tree, "resume_root")
    if isinstance(path, str) and path != "auto":
        try:
            checked(path, [Path(root)] if isinstance(root, str) else [])
        except UserError as error:
            yield from error.problems


def _validation_is_watched(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """What goes by the validation loss needs one."""
    validated = get(tree, "callbacks.validation.enabled") and (
        get(tree, "data.validation.share") or get(tree, "data.validation.folder")
    )
    if validated:
        return
    remedy = "hold images out: data/validation=share, or data.validation.folder=PATH, with callbacks.validation.enabled"
    if str(get(tree, "scheduler._target_", "")).endswith(".plateau"):
        yield Problem("scheduler", "plateau goes by the validation loss, and nothing is validated", remedy)
    if get(tree, "callbacks.early_stopping.enabled"):
        yield Problem("callbacks.early_stopping", "goes by the validation loss, and nothing is validated", remedy)


RULES: tuple[Callable[[Tree, dict[str, Any], list[str]], Iterator[Problem]], ...] = (
    _folder_is_of_folder_data,
    _folders_are_there,
    _base_model,
    _data,
    _something_to_do,
    _timesteps,
    _warm_up,
    _optimizer_of_device,
    _precision_of_device,
    _precision_of_base,
    _cached_latents,
    _output_folder,
    _plain_values,
    _state_to_resume,
    _validation_is_watched,
)
