"""Command lines of diffusers' example scripts that train a LoRA, alone or in a start script.

Options that are not given have the script's defaults. `max_train_steps` takes precedence over `num_train_epochs`; both
are optimizer steps and passes over the data. A LoRA is one of the attention layers, with its rank as alpha.
"""

from __future__ import annotations

import re
from typing import Any

from loralab.importers.content import Content, no_settings
from loralab.importers.dialects.command_line import command, words
from loralab.importers.foreign import Foreign, Left
from loralab.importers.peers.choices import Chosen, choose, one_rate, optimizer, other_family
from loralab.importers.peers.entries import entry
from loralab.importers.peers.rows import row, table, without
from loralab.importers.peers.simpletuner_backends import NO_CAPTIONS
from loralab.importers.rules import catalogue_rows
from loralab.importers.rules.groups import drop_unknown
from loralab.importers.rules.ours import Ours
from loralab.importers.script import Script, script
from loralab.schema import coerce

PROGRAM = re.compile(r"\btrain_(?P<kind>text_to_image|dreambooth)_lora(?:_(?P<more>\w+))?\.py\b")
PRECISIONS = coerce.OneOf(no="32-true", fp16="16-mixed", bf16="bf16-mixed")
DTYPES = {"32-true": "fp32", "16-mixed": "fp16", "bf16-mixed": "bf16"}

_SWITCHES = {
    "does not change what is trained": (
        "push_to_hub allow_tf32 enable_xformers_memory_efficient_attention set_grads_to_none "
        "pre_compute_text_embeddings enable_npu_flash_attention debug_loss output_kohya_format skip_final_inference "
        "cache_latents upcast_before_saving"
    ),
}
_NEUTRAL = {
    "does not change what is trained": (
        "cache_dir revision non_ema_revision variant logging_dir report_to local_rank hub_token hub_model_id "
        "sample_batch_size prior_generation_precision num_class_images validation_images final_validation_prompt"
    ),
    "of images with metadata the columns file_name and text are read": "image_column caption_column",
    "images tell their size and crop": "crops_coords_top_left_h crops_coords_top_left_w",
}
_NOT_SUPPORTED = {
    "is not supported": (
        "max_train_samples class_labels_conditioning image_interpolation_mode tokenizer_max_length "
        "adam_weight_decay_text_encoder lora_layers"
    ),
    "download the images and set data.folder": "dataset_name dataset_config_name",
}
_NOT_SUPPORTED_SWITCHES = "text_encoder_use_attention_mask do_edm_style_training"

ROWS = table(
    row("pretrained_model_name_or_path", "model.base", kind=coerce.path, by="model"),
    row("pretrained_vae_model_name_or_path", "model.vae", kind=coerce.path),
    row("prediction_type", "model.prediction_type"),
    row("gradient_checkpointing", "model.gradient_checkpointing", kind=coerce.flag),
    row("mixed_precision", "trainer.precision", kind=PRECISIONS, by="model"),
    row("rank", "adapter.rank"),
    row("lora_alpha", "adapter.alpha", kind=coerce.number, by="adapter"),
    row("lora_dropout", "adapter.dropout"),
    row("use_dora", "adapter=dora", kind=coerce.flag, by="adapter"),
    row("train_text_encoder", "targets.text_encoder", kind=coerce.flag, by="adapter"),
    row("learning_rate", "optimizer.lr", kind=coerce.number, by="rates"),
    row("text_encoder_lr", "targets.text_encoder_lr", kind=coerce.number, by="rates", neutral=True,
        why="has no effect without train_text_encoder"),
    row("scale_lr", "optimizer.lr", kind=coerce.flag, by="rates"),
    row("optimizer", "optimizer=…", kind=coerce.name, by="rates"),
    row("use_8bit_adam", "optimizer=adamw8bit", kind=coerce.flag, by="rates"),
    row("adam_beta1", "optimizer.betas", kind=coerce.number, by="rates"),
    row("adam_beta2", "optimizer.betas", kind=coerce.number, by="rates"),
    row("adam_weight_decay", "optimizer.weight_decay", kind=coerce.number, by="rates"),
    row("adam_epsilon", "optimizer.eps", kind=coerce.number, by="rates"),
    row("prodigy_beta3", "optimizer.beta3", kind=coerce.number, by="rates"),
    *(row(f"prodigy_{name}", f"optimizer.{name}", kind=coerce.flag, by="rates")
      for name in ("decouple", "use_bias_correction", "safeguard_warmup")),
    row("lr_scheduler", "scheduler=…", kind=coerce.name, by="schedule"),
    row("lr_warmup_steps", "scheduler.warmup_steps", kind=coerce.whole, by="schedule", neutral=True,
        why="has no effect with a constant learning rate"),
    row("lr_num_cycles", "scheduler.num_cycles", only="scheduler=cosine_with_restarts", neutral=True),
    row("lr_power", "scheduler.power", only="scheduler=polynomial", neutral=True),
    row("max_grad_norm", "trainer.gradient_clip_val"),
    row("max_train_steps", "trainer.max_steps", kind=coerce.whole, by="length"),
    row("num_train_epochs", "trainer.max_epochs", kind=coerce.whole, by="length", neutral=True,
        why="overridden by max_train_steps"),
    row("train_batch_size", "data.batch_size", kind=coerce.whole, by="images"),
    row("gradient_accumulation_steps", "trainer.accumulate_grad_batches"),
    row("dataloader_num_workers", "data.num_workers"),
    row("seed", "seed", kind=coerce.whole),
    row("output_dir", "output.folder", kind=coerce.path),
    row("checkpointing_steps", "callbacks.export.every_n_steps", kind=coerce.whole),
    row("checkpoints_total_limit", "callbacks.export.keep_last", kind=coerce.whole),
    row("resume_from_checkpoint", "resume", kind=coerce.name, by="samples"),
    row("snr_gamma", "objective/weighting=min_snr", kind=coerce.number, holder="objective.weighting.min_snr.gamma"),
    row("noise_offset", "objective/noise=offset", kind=coerce.number, holder="objective.noise.offset.strength"),
    row("resolution", "data.resolution", kind=coerce.whole),
    row("center_crop", "data.augment.random_crop", kind=coerce.flag, by="images"),
    row("random_flip", "data.augment.flip", kind=coerce.flag),
    row("train_data_dir", "data.folders", kind=coerce.path, by="images"),
    row("instance_data_dir", "data.folders", kind=coerce.path, by="images"),
    row("instance_prompt", "data.folders", kind=coerce.text, by="images"),
    row("repeats", "data.folders", kind=coerce.whole, by="images"),
    row("with_prior_preservation", "data.folders", kind=coerce.flag, by="images"),
    row("class_data_dir", "data.folders", kind=coerce.path, by="images", neutral=True,
        why="has no effect without with_prior_preservation"),
    row("class_prompt", "data.folders", kind=coerce.text, by="images", neutral=True,
        why="has no effect without with_prior_preservation"),
    row("prior_loss_weight", "objective.prior_loss_weight", kind=coerce.number, by="images", neutral=True,
        why="has no effect without with_prior_preservation"),
    row("validation_prompt", "callbacks.samples.prompts", kind=coerce.text, by="samples"),
    row("num_validation_images", "callbacks.samples.seeds", kind=coerce.whole, by="samples", neutral=True,
        why="has no effect without validation_prompt"),
    row("validation_epochs", "callbacks.samples.every_n_epochs", kind=coerce.whole, by="samples", neutral=True,
        why="has no effect without validation_prompt"),
    *without(_SWITCHES, neutral=True),
    *without(_NEUTRAL, neutral=True),
    *without(_NOT_SUPPORTED),
    *without({"is not supported": _NOT_SUPPORTED_SWITCHES}),
)  # fmt: skip

SWITCHES = frozenset(
    [name for name, option in ROWS.items() if option.kind is coerce.flag and not name.startswith("prodigy_")]
    + " ".join(_SWITCHES.values()).split()
    + _NOT_SUPPORTED_SWITCHES.split()
)
"""Options without a value."""

_COMMON: dict[str, Any] = {
    "mixed_precision": "32-true",
    "rank": 4,
    "train_text_encoder": False,
    "gradient_checkpointing": False,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_weight_decay": 0.01,
    "adam_epsilon": 1e-8,
    "prodigy_decouple": True,
    "prodigy_use_bias_correction": True,
    "prodigy_safeguard_warmup": True,
    "lr_scheduler": "constant",
    "lr_warmup_steps": 500,
    "lr_num_cycles": 1,
    "lr_power": 1.0,
    "max_grad_norm": 1.0,
    "gradient_accumulation_steps": 1,
    "checkpointing_steps": 500,
    "random_flip": False,
    "prior_loss_weight": 1.0,
    "num_validation_images": 4,
}
ABSENT: dict[str, dict[str, Any]] = {
    "text_to_image": {
        **_COMMON, "learning_rate": 1e-4, "train_batch_size": 16, "num_train_epochs": 100, "validation_epochs": 1,
    },
    "dreambooth": {
        **_COMMON, "learning_rate": 5e-4, "train_batch_size": 4, "num_train_epochs": 1, "validation_epochs": 50,
    },
}  # fmt: skip
"""The scripts' defaults, of what can change the result."""
SIZES = {"": 512, "sdxl": 1024}
"""The default resolution by what follows in a script's name."""
LR_END = 1e-7
"""Where a polynomial schedule ends."""

NAMES = {f"--{name}": name for name in ROWS}


def recognises(content: Content) -> bool:
    """Whether a text has a command that starts one of the scripts."""
    if content.format != "text" or not PROGRAM.search(content.data):
        return False
    return bool(_commands(script(content.data)))


def _commands(given: Script) -> list[str]:
    return [command for command in given.commands if PROGRAM.search(command)]


def read(content: Content) -> Foreign:
    given = script(content.data, content.path.parent)
    commands = _commands(given)
    if len(commands) > 1:
        found = f"has {len(commands)} training commands"
        raise no_settings(content.path, found, "save the one to use in a separate file")
    found = Foreign("diffusers", content, NAMES, rows=ROWS)
    launcher, program, own = command(content, words(found, commands[0]))
    name = PROGRAM.search(program)
    if name is None:
        raise no_settings(content.path, "starts another program", "save the command to use in a separate file")
    kind, more = name["kind"], name["more"] or ""
    if more.endswith("advanced"):
        known = "train_text_to_image_lora.py or train_dreambooth_lora.py, or their _sdxl"
        raise no_settings(content.path, f"starts {name[0]}, which is not supported", f"give a command of {known}")
    if more not in SIZES:
        raise other_family(found, name[0], more)
    found.absent = found.blank = {**ABSENT[kind], "resolution": SIZES[more]}
    found.family = "sdxl" if more else ""
    _launcher(found, given, launcher)
    for option in given.conditional:
        found.left.append(Left(option, True, "set under a condition of the script, which is not evaluated"))
    _add(found, given, own)
    return found


def _launcher(found: Foreign, given: Script, launcher: list[str]) -> None:
    """accelerate's precision is the script's where it has none of its own."""
    for key, name, value in _options(found, launcher, frozenset()):
        if name == "mixed_precision":
            _set(found, given, key, name, value)
        else:
            why = "an option of the launcher: set trainer.devices, trainer.strategy or trainer.precision"
            found.left.append(Left(key, value, why))


def _add(found: Foreign, given: Script, own: list[str]) -> None:
    said = set[str]()
    for key, name, value in _options(found, own, SWITCHES):
        if name in said:
            found.warnings.append(f"defines {key} twice: the last value is used")
        elif name in found.options:
            found.warnings.append(f"sets {key} for the launcher, too: the script's own is used")
        said.add(name)
        found.drop(name)
        _set(found, given, key, name, value)


def _set(found: Foreign, given: Script, key: str, name: str, value: str | bool) -> None:
    found.add(key, name, value, empty=value == "")
    if isinstance(value, str) and (variable := given.unknown_in(value)):
        shown = variable if variable[0] in "$%" else f"${variable}"
        found.unsure[name] = f"{shown} {given.unknown[variable]}"


def _options(found: Foreign, given: list[str], switches: frozenset[str]) -> list[tuple[str, str, str | bool]]:
    """(key, option, value) of each; several values are one, separated by spaces. They may be abbreviated."""
    options: list[tuple[str, str, list[str]]] = []
    for word in given:
        if word.startswith("--"):
            key, equals, value = word.partition("=")
            options.append((key, _whole(key), [value] if equals else []))
        elif options and options[-1][1] not in switches:
            options[-1][2].append(word)
        else:
            found.unknown.append(word)
    missing = [key for key, name, values in options if not values and ROWS.get(name) and name not in switches]
    if missing and switches:
        raise found.error(missing[0], "has no value", f"write {missing[0]}=…")
    return [(key, name, " ".join(values) if values else True) for key, name, values in options]


def _whole(key: str) -> str:
    """The option that an abbreviated one means."""
    meant = [name for name in NAMES if name.startswith(key)]
    return NAMES.get(key) or (NAMES[meant[0]] if len(meant) == 1 and len(key) > len("--x") else key)


# rules


def model(foreign: Foreign, ours: Ours) -> None:
    base = str(foreign.options.get("pretrained_model_name_or_path", ""))
    option = foreign.family or "sd15"
    if not foreign.family and (second := re.search(r"stable-diffusion-2(-1)?(-base)?/?$", base)):
        option = "sd2" if second[2] else "sd2_v"
    ours.choose("model", option, "pretrained_model_name_or_path")
    if not base:
        foreign.warnings.append("names no base model: the default model.base of that family is used")
    else:
        ours.set("model.base", foreign.take("pretrained_model_name_or_path"), "pretrained_model_name_or_path")
    precision = foreign.take("mixed_precision")
    ours.set("trainer.precision", precision, "mixed_precision")
    ours.set("model.dtype", DTYPES[precision], "mixed_precision")


def adapter(foreign: Foreign, ours: Ours) -> None:
    """On the attention layers; alpha is the rank."""
    names = ("pretrained_model_name_or_path",)
    ours.choose("adapter", "dora" if foreign.take("use_dora") else "lora", "use_dora")
    ours.set("adapter.alpha", foreign.take("lora_alpha"), "lora_alpha")
    ours.choose("targets", "both" if foreign.take("train_text_encoder") else "unet_only", "train_text_encoder")
    ours.set("targets.feed_forward", False, *names)
    ours.set("targets.projection", False, *names)


OPTIMIZERS = {"adamw": Chosen("adamw"), "adamw8bit": Chosen("adamw8bit"), "prodigy": Chosen("prodigy")}
ARGUMENTS = {
    "adam_weight_decay": "weight_decay", "adam_epsilon": "eps", "prodigy_beta3": "beta3",
    "prodigy_decouple": "decouple", "prodigy_use_bias_correction": "use_bias_correction",
    "prodigy_safeguard_warmup": "safeguard_warmup",
}  # fmt: skip


def rates(foreign: Foreign, ours: Ours) -> None:
    """`scale_lr` multiplies the rate by the batches' sizes."""
    rate, names = foreign.take("learning_rate"), ("learning_rate", "scale_lr")
    if not foreign.has("learning_rate"):
        foreign.warnings.append(f"has no learning rate: {rate:g} is used; in some versions of the script it is another")
    factor = foreign.take("gradient_accumulation_steps") * foreign.take("train_batch_size")
    ours.set("optimizer.lr", float(f"{rate * (factor if foreign.take('scale_lr') else 1):.12g}"), *names)
    word = str(foreign.take("optimizer") or "adamw").lower()
    eight = word == "adamw" and foreign.take("use_8bit_adam")
    given: dict[str, Any] = {"betas": ([foreign.take("adam_beta1"), foreign.take("adam_beta2")], "adam_beta1")}
    for theirs, argument in ARGUMENTS.items():
        if (value := foreign.take(theirs)) is not None:
            given[argument] = (value, theirs)
    name = "use_8bit_adam" if eight and not foreign.has("optimizer") else "optimizer"
    optimizer(foreign, ours, name, OPTIMIZERS, given, "adamw8bit" if eight else word)
    if ours.chosen("targets") == "both" and foreign.has("text_encoder_lr"):
        ours.set("targets.text_encoder_lr", foreign.take("text_encoder_lr"), "text_encoder_lr")
    one_rate(foreign, ours)


SCHEDULES = {
    name: name
    for name in ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")
}


def schedule(foreign: Foreign, ours: Ours) -> None:
    """`constant` has no warm-up."""
    option = choose(foreign, ours, "lr_scheduler", "scheduler", SCHEDULES)
    if option is None:
        return
    constant = option == "constant"
    ours.set("scheduler.warmup_steps", 0 if constant else foreign.take("lr_warmup_steps"),
             "lr_scheduler" if constant else "lr_warmup_steps")  # fmt: skip
    ours.set("scheduler.warmup_ratio", 0.0, "lr_scheduler")
    if option == "polynomial":
        ratio = min(1.0, LR_END / max(ours.value("optimizer.lr") or 0.0, LR_END))
        ours.set("scheduler.end_ratio", float(f"{ratio:.6g}"), "lr_scheduler")


def length(foreign: Foreign, ours: Ours) -> None:
    steps = foreign.take("max_train_steps")
    ours.set("trainer.max_steps", steps, "max_train_steps")
    if steps is None:
        ours.set("trainer.max_epochs", foreign.take("num_train_epochs"), "num_train_epochs")


CAPTION = table(row("path", "path"), row("prompt", "class_tokens"), row("extension", "captions.extension"),
                row("repeats", "repeats"), row("is_reg", "is_reg"))  # fmt: skip


def images(foreign: Foreign, ours: Ours) -> None:
    """Squares. With prior preservation a batch has as many class images as instance images."""
    found: list[dict[str, Any]] = []
    if path := foreign.take("train_data_dir"):
        found.append(entry(foreign, "train_data_dir", {"path": path}, CAPTION, {}, {}))
    prompt = {"extension": NO_CAPTIONS}
    if path := foreign.take("instance_data_dir"):
        own = {"path": path, "prompt": foreign.take("instance_prompt"), "repeats": foreign.take("repeats"), **prompt}
        found.append(entry(foreign, "instance_data_dir", own, CAPTION, {}, {}))
    prior, size = foreign.take("with_prior_preservation"), foreign.take("train_batch_size")
    if prior and found and (path := foreign.take("class_data_dir")):
        own = {"path": path, "prompt": foreign.take("class_prompt"), "is_reg": True, **prompt}
        found.append(entry(foreign, "class_data_dir", own, CAPTION, {}, {}))
        ours.set("objective.prior_loss_weight", foreign.take("prior_loss_weight"), "prior_loss_weight")
        size *= 2
        foreign.warnings.append(
            "adds as many class images to each batch, so that data.batch_size is twice its train_batch_size; class "
            "images are not generated, and an epoch is one of the instance images"
        )
    foreign.datasets_taken.clear()
    names = ("train_data_dir", "instance_data_dir", "instance_prompt", "repeats")
    ours.choose("data", "folder", *names)
    if found:
        ours.set("data.folders", found, *names, *(
            ("with_prior_preservation", "class_data_dir", "class_prompt") if len(found) > 1 else ()))  # fmt: skip
    ours.set("data.batch_size", size, "train_batch_size")
    ours.set("data.buckets.enabled", False, "resolution")
    ours.set("data.augment.random_crop", not foreign.take("center_crop"), "center_crop")


def samples(foreign: Foreign, ours: Ours) -> None:
    if foreign.take("resume_from_checkpoint") == "latest":
        ours.set("resume", "auto", "resume_from_checkpoint")
    else:
        foreign.leave("resume_from_checkpoint", "states of other trainers cannot be resumed")
    if not (prompt := foreign.take("validation_prompt")):
        return
    ours.set("callbacks.samples.enabled", True, "validation_prompt")
    ours.set("callbacks.samples.prompts", [{"prompt": prompt}], "validation_prompt")
    ours.set("callbacks.samples.every_n_epochs", foreign.take("validation_epochs"), "validation_epochs")
    ours.set("callbacks.samples.seeds", foreign.take("num_validation_images"), "num_validation_images")


RULES = (
    model, catalogue_rows.plain, catalogue_rows.switches, adapter, rates, schedule, length,
    catalogue_rows.conditional, images, samples, drop_unknown,
)  # fmt: skip
