"""Rules between settings, and between settings and this machine: each a function of a few lines."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from loralab.callbacks import prompts
from loralab.checks import compiling
from loralab.checks.adapter import adapter_problems
from loralab.checks.data import data_problems
from loralab.checks.devices import device_problems
from loralab.checks.metrics import is_validated
from loralab.checks.places import place_problems
from loralab.checks.rates import rate_problems
from loralab.checks.targets import target_problems
from loralab.diffusion.predictions import WORDS, meaningless
from loralab.errors import Problem, UserError, invalid
from loralab.models.probe import check, predicted
from loralab.models.registry import FAMILIES, of_model
from loralab.packages import missing, missing_for
from loralab.schema.automatic import changing_encoders
from loralab.schema.tree import Tree, get, plain_values
from loralab.schema.trusted import is_trusted
from loralab.scorers.scorer import SETTING as SCORER
from loralab.scorers.scorer import scorer_problems
from loralab.training.resume import checked, refuse_other_settings
from loralab.training.signature import of_settings
from loralab.urls import is_url, unusable_url

BY_NAME = ("callbacks", "logger")
"""Groups that are a dict of nodes by name, rather than a single node."""


def contradictions(
    tree: Tree, choices: dict[str, Any], overrides: list[str], misshapen: bool, here: bool = True
) -> list[Problem]:
    """All problems that the rules find. misshapen: there are values of the wrong type; a rule that fails because of
    them is ignored. here: whether to check files, devices and packages of this machine, too."""
    found: list[Problem] = []
    for rule in (*RULES, *RULES_HERE) if here else RULES:
        try:
            found += rule(tree, choices, overrides)
        except (OSError, RuntimeError) as error:
            found.append(_refused_path(tree, error))
        except (TypeError, ValueError, AttributeError, KeyError):
            if not (misshapen or found):
                raise
    return found


def _refused_path(tree: Tree, error: OSError | RuntimeError) -> Problem:
    """The setting whose path the system rejects: a name that is too long, ~ of an unknown user."""
    texts = [(key, value) for key, value in plain_values(tree) if isinstance(value, str) and value]
    if isinstance(error, OSError):
        path, why = str(error.filename), error.strerror
        found = next((key for key, value in texts if value in path), None)
    else:
        found, why = next((key for key, value in texts if value.startswith("~")), None), "home folder not found"
    if found is None:
        raise error
    return Problem(found, f"invalid path: {why}", "check the path")


def _folder_is_of_folder_data(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    given = [o for o in overrides if o.lstrip("+").startswith(("data.folder=", "data.folders=", "data.folders."))]
    if given and choices.get("data") == "shapes":
        yield Problem(
            given[0].split("=")[0], "cannot be combined with data=shapes, the embedded images", "add data=folder"
        )


def _demo_with_a_settings_file(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """The demo's model and images never fill in what a settings file does not name."""
    if not get(tree, "settings.load"):
        return
    given = {o.lstrip("+").partition("=")[0] for o in overrides}
    file = Path(str(get(tree, "settings.load"))).name
    if choices.get("model") == "tiny" and not given & {"model", "model.base"}:
        first, *others = [row.options[0] for row in reversed(FAMILIES.values())]
        remedy = f"add model={first} (or {', '.join(others)}) model.base=PATH, or model=tiny for the embedded model"
        yield Problem("model.base", f"not set by {file}", remedy)
    if choices.get("data") == "shapes" and not given & {"data", "data.folder", "data.folders"}:
        remedy = "add data=folder data.folder=PATH, or data=shapes for the embedded images"
        yield Problem("data.folder", f"not set by {file}", remedy)


def _names_no_images(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> bool:
    return any(problem.setting == "data.folder" for problem in _demo_with_a_settings_file(tree, choices, overrides))


def _places(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if get(tree, "data.folder") is None and not get(tree, "data.folders"):
        yield Problem("data.folder", "is missing", "set the folder of your images: data.folder=PATH")
    yield from place_problems(tree)


def _base_model(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if isinstance(model := get(tree, "model"), dict):
        yield from check(model)


def _adapter(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    yield from adapter_problems(tree)


def _data(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if isinstance(data := get(tree, "data"), dict) and not _names_no_images(tree, choices, overrides):
        yield from data_problems(data, of_model(get(tree, "model") or {}))


def _length(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if get(tree, "trainer.max_steps") is None and get(tree, "trainer.max_epochs") is None:
        yield Problem(
            "trainer.max_steps",
            "neither trainer.max_steps nor trainer.max_epochs is set",
            "set one, such as trainer.max_epochs=10",
        )
    if get(tree, "trainer.limit_train_batches") == 0:
        found = "invalid value 0: no batch would be trained on"
        yield Problem("trainer.limit_train_batches", found, "raise it, or set it to null for all batches")


def _timesteps(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    low, high = get(tree, "objective.timesteps.low"), get(tree, "objective.timesteps.high")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        remedy = "set low to the first timestep, high to the one after the last"
        yield Problem("objective.timesteps", f"low={low} is above high={high}", remedy)


def _warm_up(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    steps, ratio = get(tree, "scheduler.warmup_steps"), get(tree, "scheduler.warmup_ratio")
    if steps is not None and ratio:
        found = f"{steps} cannot be combined with scheduler.warmup_ratio={ratio}"
        yield Problem("scheduler.warmup_steps", found, "set scheduler.warmup_steps=null or scheduler.warmup_ratio=0")


def _targets(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    if isinstance(targets := get(tree, "targets"), dict):
        yield from target_problems(targets)


def _rates(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    nodes = [get(tree, name) for name in ("optimizer", "scheduler", "targets")]
    if all(isinstance(node, dict) for node in nodes):
        yield from rate_problems(*nodes)


def _device(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    yield from device_problems(tree)


def _cached_texts(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """The outputs of a text encoder cannot be cached while it is trained, or while adapter.weights change it."""
    if get(tree, "data.cache.text") is not True:
        return
    for target in changing_encoders(tree):
        remedy = f"set targets=unet_only or {target}_lr=0, or data.cache.text=false"
        found = f"cannot be combined with {target}: its outputs change during training"
        yield Problem("data.cache.text", found, remedy)


def _packages(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """The packages of what is chosen must be installed."""
    allow = [entry for entry in get(tree, "allow") or [] if isinstance(entry, str) and entry]
    nodes = [(name, tree.get(name)) for name in ("adapter", "optimizer", "scheduler")]
    nodes += [(f"{group}.{name}", n) for group in BY_NAME for name, n in (get(tree, group) or {}).items()]
    for path, node in nodes:
        if (
            isinstance(node, dict)
            and node.get("enabled") is not False
            and is_trusted(path, node.get("_target_"), allow)
        ):
            yield from missing_for(path, node["_target_"])
    if str(get(tree, "data.metadata")).endswith(".parquet"):
        yield from missing("data.metadata", "pyarrow")


def _precision_of_base(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    dtype, precision = get(tree, "model.dtype"), get(tree, "trainer.precision")
    if (dtype, precision) in (("fp16", "bf16-mixed"), ("bf16", "16-mixed")):
        remedy = f"set model.dtype=fp32 or model.dtype={'bf16' if dtype == 'fp16' else 'fp16'}"
        yield Problem("model.dtype", f"{dtype} cannot be combined with trainer.precision={precision}", remedy)


def _offload(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """Weights come and go on one device, as plain tensors."""
    if not get(tree, "model.offload"):
        return
    if get(tree, "model.quantize") == "nf4":
        remedy = "set model.offload=0, or model.quantize=fp8 or int8"
        yield Problem("model.offload", "cannot be combined with model.quantize=nf4", remedy)
    strategy = get(tree, "trainer.strategy")
    if strategy != "fsdp" and (get(tree, "trainer.devices") not in (1, "1", "auto") or strategy != "auto"):
        found = "cannot be combined with several devices"
        yield Problem("model.offload", found, "set trainer.devices=1 trainer.strategy=auto, or model.offload=0")


def _shared_out(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """With trainer=fsdp weights are shared out as plain tensors, and all devices compute the same blocks together."""
    if get(tree, "trainer.strategy") != "fsdp":
        return
    reasons = {
        "model.quantize": (None, "packed weights cannot be shared out"),
        "model.offload": (0, "each device keeps its share of the weights"),
        "memory.limit_gb": (None, "the estimate counts the whole base model on each device"),
        "adapter.module_dropout": (0, "devices that drop different layers would wait for each other"),
    }
    for setting, (off, why) in reasons.items():
        if value := get(tree, setting):
            found = f"{value} cannot be combined with trainer.strategy=fsdp: {why}"
            yield Problem(setting, found, f"set {setting}={'null' if off is None else off}, or trainer=ddp")


def _compiling(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    yield from compiling.combination_problems(tree)


def _compiling_here(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    yield from compiling.machine_problems(tree)


def _plain_values(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    for key in ("resume", "resume_root"):
        if not isinstance(get(tree, key, ""), str | None):
            yield invalid(key, get(tree, key), "a path, auto, or null")
    for key in ("resume_force", "reuse"):
        if not isinstance(get(tree, key, False), bool):
            yield invalid(key, get(tree, key), "true or false")
    if get(tree, "sweep.resume") is not None:
        yield Problem("sweep.resume", "can only be set on the command line", "remove it from the file")
    seed = get(tree, "seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        yield invalid("seed", seed, "a whole number")
    if not _is_word(name := get(tree, "run.name")) and name is not None:
        yield invalid("run.name", name, "text")
    tags = get(tree, "run.tags", [])
    if not isinstance(tags, list) or not all(map(_is_word, tags)):
        yield invalid("run.tags", tags, "a list of words, such as [baseline, low_rank]")
    limit = get(tree, "trainer.max_time")
    if isinstance(limit, str) and not re.fullmatch(r"\d{1,3}(:\d{1,2}){3}", limit):
        yield invalid("trainer.max_time", limit, "days:hours:minutes:seconds, like 00:12:00:00")


def _is_word(value: Any) -> bool:
    """A number, too, as Hydra reads a word of digits."""
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""


def _slider(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """A slider has two ends."""
    ends = get(tree, "objective.positive"), get(tree, "objective.negative")
    if ends[0] is not None and ends[0] == ends[1]:
        found = "is the same as objective.negative: the slider would not move"
        yield Problem("objective.positive", found, "set objective.positive to what it shall move towards")


def _meaningless(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """Options of the objective without a meaning for what the base model predicts."""
    options: dict[str, object] = {}
    for group in ("objective.noise", "objective.weighting"):
        for option, node in (get(tree, group) or {}).items():
            module, _, name = str(node["_target_"]).rpartition(".")
            if module.startswith("loralab.diffusion."):  # the code of others is asked once it is built
                options[f"{group}.{option}"] = getattr(import_module(module), name, None)
    if options and (prediction := predicted(get(tree, "model"))):
        yield from meaningless(options, prediction)


def _of_flows(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """A flow ends in pure noise as it is, and it alone has sigmas to shift."""
    model = get(tree, "model")
    if not isinstance(model, dict) or not (prediction := predicted(model)):
        return
    if prediction == "flow" and model.get("zero_terminal_snr"):
        yield Problem("model.zero_terminal_snr", "has no effect with a model that predicts a flow", "remove it")
    if prediction != "flow" and model.get("flow_shift") is not None:
        found = f"needs a model that predicts a flow, but this one predicts {WORDS.get(prediction, prediction)}"
        yield Problem("model.flow_shift", found, "remove it, or set model.prediction_type=flow")


def _state_to_resume(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """The state exists, is complete, and has the same settings, as far as they are known yet."""
    path, root = get(tree, "resume"), get(tree, "resume_root")
    if not isinstance(path, str) or path == "auto":
        return
    if is_url(path):
        if found := unusable_url(path):
            yield Problem("resume", *found)
        return
    try:
        state = checked(path, [Path(root)] if isinstance(root, str) else [])
        if not get(tree, "resume_force"):
            known = of_settings(tree)
            told = {key: value for key, value in state.signature.items() if key in known}
            refuse_other_settings(replace(state, signature=told), known)
    except UserError as error:
        yield from error.problems


def _pictures(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """Prompts are read before a model is loaded."""
    samples = get(tree, "callbacks.samples")
    given = samples.get("prompts") if isinstance(samples, dict) and samples.get("enabled") is not False else None
    if isinstance(given, (str, list)):
        try:
            prompts.read(given)
        except UserError as error:
            yield from error.problems


def _scores(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """A scorer can be loaded, and has pictures to score."""
    if get(tree, SCORER) is None:
        return
    yield from scorer_problems(get(tree, SCORER))
    samples, times = get(tree, "callbacks.samples"), ("before", "after", "every_n_steps", "every_n_epochs")
    if get(samples, "enabled", False) is False:
        found = "has no effect with callbacks.samples.enabled=false: there are no pictures to score"
        yield Problem(SCORER, found, f"set callbacks.samples.enabled=true, or {SCORER}=null")
    elif not any(get(samples, time) for time in times):
        found = "has no effect: callbacks.samples has no times, so there are no pictures to score"
        yield Problem(SCORER, found, f"set callbacks.samples.after=true, or {SCORER}=null")


def _validation_is_watched(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    """What depends on the validation loss needs a validation set."""
    if is_validated(tree):
        return
    remedy = "set data/validation=split or data.validation.folder=PATH, and callbacks.validation.enabled=true"
    if str(get(tree, "scheduler._target_", "")).endswith(".plateau"):
        yield Problem("scheduler", "plateau needs a validation loss, but there is no validation set", remedy)
    if get(tree, "callbacks.early_stopping.enabled"):
        yield Problem("callbacks.early_stopping", "needs a validation loss, but there is no validation set", remedy)


def _batch_parts(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    parts, accumulate = get(tree, "data.batch_parts"), get(tree, "trainer.accumulate_grad_batches")
    if accumulate % parts:
        found = (
            f"{accumulate} is no multiple of data.batch_parts={parts}, so an optimizer step would end within a batch"
        )
        yield Problem("trainer.accumulate_grad_batches", found, f"set trainer.accumulate_grad_batches={parts}")


def _memory(tree: Tree, choices: dict[str, Any], overrides: list[str]) -> Iterator[Problem]:
    limit = get(tree, "memory.limit_gb")
    is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
    if limit not in (None, "auto") and not (is_number and limit > 0):
        yield invalid("memory.limit_gb", limit, "a number of GB above 0, auto, or null for no limit")


Rule = Callable[[Tree, dict[str, Any], list[str]], Iterator[Problem]]

RULES: tuple[Rule, ...] = (
    _plain_values,
    _adapter,
    _data,
    _length,
    _timesteps,
    _warm_up,
    _slider,
    _targets,
    _rates,
    _precision_of_base,
    _offload,
    _shared_out,
    _compiling,
    _cached_texts,
    _validation_is_watched,
    _batch_parts,
    _memory,
)
"""Rules that depend on the settings alone."""

RULES_HERE: tuple[Rule, ...] = (
    _folder_is_of_folder_data,
    _demo_with_a_settings_file,
    _places,
    _base_model,
    _meaningless,
    _of_flows,
    _device,
    _compiling_here,
    _packages,
    _pictures,
    _scores,
    _state_to_resume,
)
"""Rules that depend on files, devices and packages of this machine."""
