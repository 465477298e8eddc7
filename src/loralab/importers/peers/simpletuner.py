"""SimpleTuner's configuration, as JSON (with or without -- before the names) or config.env, with its data backends.

Absent keys have SimpleTuner's defaults. `max_train_steps` takes precedence over `num_train_epochs`; both are optimizer
steps and passes over the data. A LoRA is one of the UNet's attention layers.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from loralab.importers.content import Content
from loralab.importers.foreign import Foreign, Left
from loralab.importers.peers import simpletuner_backends as backends
from loralab.importers.peers.choices import Chosen, choose, one_rate, optimizer, other_family
from loralab.importers.peers.named import is_list, is_table, named
from loralab.importers.peers.pictures import pictures
from loralab.importers.peers.rows import row, table, tables, take, without
from loralab.importers.rules import catalogue_rows
from loralab.importers.rules.groups import drop_unknown
from loralab.importers.rules.memory import offload
from loralab.importers.rules.network import ALGORITHMS, UNSCALED
from loralab.importers.rules.ours import Ours
from loralab.importers.rules.timesteps import is_flow, shift_by_resolution
from loralab.importers.rules.transformer import REFINERS, family, pattern
from loralab.schema import coerce
from loralab.schema.arguments import arguments

FAMILIES = {
    "sdxl": "sdxl", "legacy": "sd15", "sd1x": "sd15", "sd2x": "sd2", "z-image": "zimage", "z_image": "zimage",
    "anima": "anima",
}  # fmt: skip
ASSISTED = ("turbo", "turbo-ostris-v2")
"""Flavours of Z-Image that are trained over an adapter, which makes them undistilled."""
FLAVOURS = {"z-image": ("base", *ASSISTED), "z_image": ("base", *ASSISTED), "anima": ("release", "base-v1.0")}
"""Of a family, those whose base is the default of an option here."""

PRECISIONS = coerce.OneOf(bf16="bf16-mixed", no="32-true", fp32="32-true", fp16="16-mixed", fp8="bf16-mixed")
QUANTIZED = {
    **dict.fromkeys(("int8-quanto", "int8-torchao", "int8-sdnq"), "int8"),
    **dict.fromkeys(("nf4-bnb", "fp4-bnb", "nf4-torchao"), "nf4"),
    **dict.fromkeys(("fp8-quanto", "fp8uz-quanto", "fp8-torchao", "fp8-sdnq"), "fp8"),
}

_NEUTRAL = {
    "does not change what is trained": (
        "cache_dir cache_dir_* cache_file_suffix cache_clear_validation_prompts compress_disk_cache "
        "keep_vae_loaded skip_file_discovery preserve_data_backend_cache override_dataset_config "
        "ignore_missing_files *_batch_size enable_multiprocessing max_workers aws_* torch_num_threads "
        "dataloader_prefetch* aspect_bucket_worker_count aspect_bucket_disable_rebuild aspect_bucket_rounding "
        "vae_enable_* vae_cache_* vae_dtype push_to_hub push_checkpoints_to_hub hub_model_id model_card_* "
        "logging_dir disable_benchmark benchmark_base_model allow_tf32 disable_tf32 webhook_* tracker_* "
        "report_to local_rank enable_xformers_memory_efficient_attention set_grads_to_none print_* "
        "metadata_update_interval debug_* i_know_what_i_am_doing fuse_optimizer "
        "accelerator_cache_clear_interval gradient_precision quantize_via base_model_default_dtype "
        "attention_mechanism ema_device ema_cpu_only ema_foreach_disable optimizer_cpu_offload_method "
        "optimizer_offload_gradients optimizer_release_gradients offload_* num_processes num_machines "
        "dynamo_* revision variant seed_for_each_device disable_bucket_pruning delete_* save_text_encoder "
        "unet_attention_slice fully_unload_text_encoder evaluation_type "
        "pretrained_evaluation_model_name_or_path eval_* num_eval_images disable_segmented_timestep_sampling "
        "configure_* accelerate_extra_args training_num_* validation_torch_compile* "
        "validation_noise_scheduler validation_seed_source validation_using_datasets validation_disable* "
        "validation_randomize num_validation_images validation_guidance_* validation_no_cfg_until_timestep "
        "inference_scheduler_timestep_spacing enable_watermark training_scheduler_timestep_spacing "
        "offload_during_startup parquet_* instance_prompt disable_accelerator group_offload_* ramtorch_* "
        "musubi_block_swap_device gradient_checkpointing_interval publishing_config validation_preview* "
        "allow_dataset_oversubscription assistant_lora_weight_name ignore_final_epochs strict_epoch_limit "
        "validation_lycoris_strength validation_adapter_* fuse_qkv_projections"
    ),
    "for another model family or training": (
        "flux_* sd3_* t5_padding smoldit* flow_matching_loss pretrained_t5_model_name_or_path "
        "text_encoder_lr text_encoder_limit freeze_encoder* layer_freeze_strategy "
        "snr_weight refiner_training_strength sdxl_refiner_uses_full_range data_aesthetic_score "
        "soft_min_snr_sigma_data timestep_bias_multiplier timestep_bias_begin timestep_bias_end "
        "timestep_bias_portion adam_* text_encoder_*_precision"
    ),
}
_NOT_SUPPORTED = {
    "is not supported": (
        "use_soft_min_snr refiner_training refiner_training_invert_schedule timestep_bias_strategy "
        "quantize_activations init_lokr_norm input_perturbation_steps controlnet controlnet_* "
        "pretrained_unet_* prepend_instance_prompt only_instance_prompt data_backend_sampling "
        "target_downsample_size validation_prompt_library user_prompt_library train_text_encoder "
        "lora_initialisation_style non_ema_revision distillation_* crepa_* scheduled_sampling_* tread_config "
        "diff2flow_* flow_custom_timesteps twinflow_* slider_* layersync_*"
    ),
    "for parts from elsewhere set model.base to the transformer, and model.vae, model.text_encoder": (
        "pretrained_transformer_* pretrained_text_encoder_*"
    ),
    "set targets.patterns": "peft_lora_target_modules lora_target_modules",
    "other adapters under the one that is trained are not supported: merge them with loralab merge": (
        "assistant_lora_path"
    ),
    "has no effect: no other adapter is under the one that is trained": "disable_assistant_lora",
}
OFF = {
    "timestep_bias_strategy": "none",
    "data_backend_sampling": "auto-weighting",
    "timestep_bias_portion": 0.25,
}
"""Values of unsupported keys that say nothing."""

EVERY_BLOCK = ("enable_group_offload", "ramtorch")
"""By which the weights of all blocks wait in the CPU's memory."""

ROWS = table(
    row("model_family", "model=…", kind=coerce.name, by="model"),
    row("model_type", "adapter=…", kind=coerce.name, by="adapter"),
    *(row(name, "model=…", kind=coerce.name, by="model", why="set model.base")
      for name in ("model_flavour", "model_flavor")),
    row("pretrained_model_name_or_path", "model.base", kind=coerce.path),
    row("tokenizer_max_length", "model.max_token_length", kind=coerce.whole, only="model=zimage|zimage_turbo|anima",
        neutral=True),
    row("musubi_blocks_to_swap", "model.offload", kind=coerce.whole, by="memory"),
    *(row(name, "model.offload", kind=coerce.flag, by="memory") for name in EVERY_BLOCK),
    row("lora_format", "output.layout", kind=coerce.OneOf(diffusers="diffusers", comfyui="comfyui")),
    row("flow_sigmoid_scale", "objective.timesteps.std", kind=coerce.number, by="timesteps", neutral=True,
        why="has no effect without logit-normal timesteps of a flow"),
    row("flow_use_uniform_schedule", "objective/timesteps=uniform", kind=coerce.flag, by="timesteps", neutral=True),
    row("flow_use_beta_schedule", "objective/timesteps=…", kind=coerce.flag, by="timesteps", neutral=True,
        why="is off, or there is no flow"),
    *(row(f"flow_beta_schedule_{name}", "objective/timesteps=…", kind=coerce.number, by="timesteps", neutral=True,
          why="has no effect without flow_use_beta_schedule") for name in ("alpha", "beta")),
    row("flow_schedule_shift", "objective.timesteps.shift", kind=coerce.number, by="timesteps", neutral=True,
        why="has no effect: the base model is no flow"),
    row("flow_schedule_auto_shift", "objective.timesteps.shift", kind=coerce.flag, by="timesteps", neutral=True,
        why="is off, or overridden by flow_schedule_shift, which is 3 where it is not set"),
    row("pretrained_vae_model_name_or_path", "model.vae", kind=coerce.path),
    row("prediction_type", "model.prediction_type"),
    row("rescale_betas_zero_snr", "model.zero_terminal_snr", kind=coerce.flag),
    row("gradient_checkpointing", "model.gradient_checkpointing", kind=coerce.flag),
    row("mixed_precision", "trainer.precision", kind=PRECISIONS, by="model"),
    row("base_model_precision", "model.quantize", kind=coerce.name, by="model"),
    row("lora_type", "adapter=…", kind=coerce.name, by="adapter"),
    row("lora_init_type", "adapter=…", kind=coerce.name, by="adapter", neutral=True),
    row("lora_rank", "adapter.rank", by="adapter"),
    row("lora_alpha", "adapter.alpha", kind=coerce.number, by="adapter"),
    row("lora_dropout", "adapter.dropout", by="adapter"),
    row("use_dora", "adapter=dora", kind=coerce.flag, by="adapter"),
    row("init_lora", "adapter.weights", kind=coerce.path),
    row("lycoris_config", "adapter=…", kind=coerce.path, by="adapter"),
    row("learning_rate", "optimizer.lr", kind=coerce.number, by="rates"),
    row("lr_scale", "optimizer.lr", kind=coerce.flag, by="rates"),
    row("optimizer", "optimizer=…", kind=coerce.name, by="rates"),
    row("optimizer_config", "optimizer.…", kind=lambda value: arguments(
        value.split(",") if isinstance(value, str) else value), by="rates"),
    row("optimizer_beta1", "optimizer.betas", kind=coerce.number, by="rates"),
    row("optimizer_beta2", "optimizer.betas", kind=coerce.number, by="rates"),
    row("lr_scheduler", "scheduler=…", kind=coerce.name, by="schedule"),
    row("lr_warmup_steps", "scheduler.warmup_steps", kind=coerce.whole, by="schedule", neutral=True,
        why="has no effect with a constant learning rate"),
    row("lr_num_cycles", "scheduler.num_cycles", only="scheduler=cosine_with_restarts", neutral=True),
    row("lr_power", "scheduler.power", only="scheduler=polynomial", neutral=True),
    row("lr_end", "scheduler.end_ratio", kind=coerce.number, by="schedule", neutral=True,
        why="has no effect with a constant or linear learning rate"),
    row("max_grad_norm", "trainer.gradient_clip_val"),
    row("max_train_steps", "trainer.max_steps", kind=coerce.whole, by="length"),
    row("num_train_epochs", "trainer.max_epochs", kind=coerce.whole, by="length", neutral=True,
        why="overridden by max_train_steps"),
    row("train_batch_size", "data.batch_size"),
    row("gradient_accumulation_steps", "trainer.accumulate_grad_batches"),
    row("seed", "seed", kind=coerce.whole),
    row("output_dir", "output.folder", kind=coerce.path),
    row("checkpointing_steps", "callbacks.export.every_n_steps", kind=coerce.whole),
    row("checkpoints_total_limit", "callbacks.export.keep_last", kind=coerce.whole),
    row("resume_from_checkpoint", "resume", kind=coerce.name, by="saving"),
    row("snr_gamma", "objective/weighting=min_snr", kind=coerce.number, by="objective"),
    row("offset_noise", "objective/noise=offset", kind=coerce.flag, by="objective"),
    row("noise_offset", "objective.noise.offset.strength", kind=coerce.number, by="objective", neutral=True,
        why="is off without offset_noise"),
    row("noise_offset_probability", "objective.noise.offset.strength", kind=coerce.number, by="objective", neutral=True,
        why="is off without offset_noise"),
    row("input_perturbation", "objective/noise=input_perturbation",
        holder="objective.noise.input_perturbation.strength"),
    row("loss_type", "objective/loss=…", kind=coerce.name, by="objective"),
    row("huber_c", "objective.loss.c", only="objective/loss=huber|smooth_l1", neutral=True),
    row("huber_schedule", "objective.loss.schedule", only="objective/loss=huber|smooth_l1", neutral=True),
    row("use_ema", "ema.decay", kind=coerce.flag, by="ema"),
    row("ema_decay", "ema.decay", kind=coerce.number, by="ema", neutral=True, why="EMA is off"),
    row("ema_update_interval", "ema.decay", kind=coerce.whole, by="ema", neutral=True, why="EMA is off"),
    row("caption_dropout_probability", "data.captions.dropout_rate"),
    row("resolution", "data.resolution", kind=coerce.number, by="images", neutral=True,
        why="overridden by the data backends"),
    row("resolution_type", "data.resolution", kind=coerce.name, by="images", neutral=True,
        why="overridden by the data backends"),
    row("aspect_bucket_alignment", "data.buckets.step"),
    row("minimum_image_size", "data.min_image_size", kind=coerce.number, by="images"),
    row("maximum_image_size", "data.max_image_size", kind=coerce.number, by="images", neutral=True,
        why="larger images are made smaller, not skipped"),
    row("caption_strategy", "data.folders", kind=coerce.name, by="images", neutral=True,
        why="overridden by the data backends"),
    row("data_backend_config", "data.folders", kind=coerce.path, by="images"),
    row("backends", "data.folders", kind=tables, by="images"),
    row("validation_prompt", "callbacks.samples.prompts", kind=coerce.text, by="samples"),
    row("validation_negative_prompt", "callbacks.samples.negative", kind=coerce.text, by="samples", neutral=True,
        why="has no effect without validation_prompt"),
    row("validation_steps", "callbacks.samples.every_n_steps", kind=coerce.whole, by="samples", neutral=True,
        why="has no effect without validation_prompt"),
    row("validation_seed", "callbacks.samples.seed"),
    row("validation_guidance", "callbacks.samples.guidance"),
    row("validation_num_inference_steps", "callbacks.samples.steps"),
    row("validation_resolution", "callbacks.samples.width", kind=coerce.size, by="samples", neutral=True,
        why="has no effect without validation_prompt"),
    row("validation_on_startup", "callbacks.samples.before"),
    *without(_NEUTRAL, neutral=True),
    *without(_NOT_SUPPORTED),
)  # fmt: skip

ABSENT: dict[str, Any] = {
    "model_type": "full",
    "mixed_precision": "bf16-mixed",
    "base_model_precision": "no_change",
    "lora_type": "standard",
    "lora_rank": 16,
    "lora_dropout": 0.1,
    "learning_rate": 4e-7,
    "lr_scheduler": "sine",
    "lr_warmup_steps": 500,
    "lr_num_cycles": 1,
    "lr_power": 0.8,
    "lr_end": 4e-7,
    "max_grad_norm": 2.0,
    "num_train_epochs": 1,
    "train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "checkpointing_steps": 500,
    "noise_offset": 0.1,
    "noise_offset_probability": 0.25,
    "loss_type": "l2",
    "ema_decay": 0.995,
    "flow_schedule_shift": 3.0,
    "resolution": 1024.0,
    "resolution_type": "pixel_area",
    "aspect_bucket_alignment": 64,
    "caption_strategy": "filename",
    "validation_negative_prompt": "blurry, cropped, ugly",
    "validation_steps": 100,
}
"""SimpleTuner's defaults, of what can change the result."""

_ADAMW = {"betas": [0.9, 0.999], "weight_decay": 0.01, "eps": 1e-6}
_OPTIMI = {"betas": [0.9, 0.99], "weight_decay": 0.0, "eps": 1e-6}
_LION = {"betas": [0.9, 0.99], "weight_decay": 0.0}
OPTIMIZERS = {
    **dict.fromkeys(("adamw_bf16", "bnb-adamw", "bnb-adamw-paged"), Chosen("adamw", _ADAMW)),
    **dict.fromkeys(("bnb-adamw8bit", "ao-adamw8bit", "adamw8bit"), Chosen("adamw8bit", _ADAMW)),
    "bnb-adamw8bit-paged": Chosen("paged_adamw8bit", _ADAMW),
    "bnb-adam": Chosen("adamw", {"betas": [0.9, 0.999], "weight_decay": 0.0, "eps": 1e-8}),
    "bnb-adam8bit": Chosen("adam8bit", {"betas": [0.9, 0.999], "weight_decay": 0.0, "eps": 1e-8}),
    "optimi-adamw": Chosen("adamw", _OPTIMI),
    "optimi-adam": Chosen("adamw", _OPTIMI),
    **dict.fromkeys(("bnb-lion", "bnb-lion-paged", "optimi-lion"), Chosen("lion", _LION)),
    **dict.fromkeys(("bnb-lion8bit", "bnb-lion8bit-paged"), Chosen("lion8bit", _LION)),
    "bnb-ademamix8bit": Chosen("ademamix8bit", {"weight_decay": 0.01}),
    "adamw_schedulefree": Chosen("schedulefree", {"betas": [0.9, 0.999], "weight_decay": 0.01, "eps": 1e-8}),
}
"""With what SimpleTuner gives them."""

ENVIRONMENT = {
    "RESUME_CHECKPOINT": "resume_from_checkpoint", "DATALOADER_CONFIG": "data_backend_config", "TRAINING_SEED": "seed",
    "USE_XFORMERS": "enable_xformers_memory_efficient_attention", "MINIMUM_RESOLUTION": "minimum_image_size",
    "USE_BITFIT": "layer_freeze_strategy", "PUSH_CHECKPOINTS": "push_checkpoints_to_hub", "LR_SCHEDULE": "lr_scheduler",
    "MAX_NUM_STEPS": "max_train_steps", "NUM_EPOCHS": "num_train_epochs", "HUB_MODEL_NAME": "hub_model_id",
    "CHECKPOINTING_LIMIT": "checkpoints_total_limit", "MODEL_NAME": "pretrained_model_name_or_path",
    "USE_GRADIENT_CHECKPOINTING": "gradient_checkpointing", "TRAINER_DYNAMO_BACKEND": "dynamo_backend",
    "TRAINING_DYNAMO_BACKEND": "dynamo_backend", "TRAINING_NUM_PROCESSES": "num_processes",
    "TRAINING_NUM_MACHINES": "num_machines",
}  # fmt: skip
"""Names in config.env that are not those of the options in capitals."""

ALIASES = {"checkpoint_step_interval": "checkpointing_steps", "validation_step_interval": "validation_steps"}

NAMES = {**{name: name for name in ROWS if "*" not in name}, **ALIASES}
_MARKS = """
model_family model_type data_backend_config lora_rank resolution_type aspect_bucket_rounding lora_type lycoris_config
caption_dropout_probability aspect_bucket_alignment base_model_precision validation_prompt_library
"""
MARKS = frozenset(_MARKS.split())
"""Keys of which no other trainer has two."""


def recognises(content: Content) -> bool:
    if isinstance(content.data, list):
        return backends.recognises(content.data)
    return len(MARKS & _table(content).keys()) > 1


def _table(content: Content) -> dict[str, Any]:
    """The file as names without -- and values; {} where it is neither JSON nor an environment."""
    if content.format in ("json", "toml") and isinstance(content.data, dict):
        names = {key.removeprefix("--"): value for key, value in content.data.items()}
        return _environment(names) if any(key.isupper() for key in names) else names
    lines = [] if content.format != "text" else content.data.splitlines()
    found = [m for line in lines if (m := re.match(r"\s*(?:export\s+)?([A-Z][A-Z_0-9]*)=(.*)$", line))]
    return _environment({m[1]: _unquoted(m[2]) for m in found}) if len(found) > len(lines) / 4 else {}


def _unquoted(text: str) -> str:
    try:
        return " ".join(shlex.split(text, comments=True))
    except ValueError:
        return text.strip("\"' ")


def _environment(given: Mapping[str, Any]) -> dict[str, Any]:
    """Variables as the options that they stand for, with those of TRAINER_EXTRA_ARGS."""
    found = {ENVIRONMENT.get(key, key.lower()): value for key, value in given.items() if key != "TRAINER_EXTRA_ARGS"}
    for word in str(given.get("TRAINER_EXTRA_ARGS") or "").split():
        key, _, value = word.removeprefix("--").partition("=")
        found.setdefault(key, value or True)
    return found


def read(content: Content) -> Foreign:
    if isinstance(content.data, list):
        found = Foreign("simpletuner", content, {"backends": "backends"}, rows=ROWS)
        found.options["backends"], found.keys["backends"] = content.data, "backends"
        return found
    found = Foreign("simpletuner", content, NAMES, ABSENT, ABSENT, ROWS)
    take(found, _table(content), ALIASES, OFF)
    family = str(found.options.get("model_family", "sdxl"))
    if family not in FAMILIES:
        raise other_family(found, "model_family", family)
    return found


# rules


def model(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return  # data backends alone
    option, family = choose(foreign, ours, "model_family", "model", FAMILIES), str(foreign.take("model_family"))
    name = "model_flavor" if foreign.has("model_flavor") else "model_flavour"
    flavour = str(foreign.take(name) or "")
    if option == "zimage":
        path = str(foreign.take("pretrained_model_name_or_path") or "").lower()
        turbo = "turbo" in (flavour or path)
        if turbo:
            ours.choose("model", "zimage_turbo", "model_family")
        if turbo and flavour in ("", *ASSISTED) and not foreign.take("disable_assistant_lora"):
            foreign.warnings.append("trains over an assistant adapter, which undoes the distillation: here without it")
    told = flavour in FLAVOURS.get(family, ()) or (flavour and foreign.has("pretrained_model_name_or_path"))
    if option and told:
        ours.origins["model"] += (name,)
    precision = foreign.take("mixed_precision")
    ours.set("trainer.precision", precision, "mixed_precision")
    ours.set("model.dtype", "fp32" if precision == "32-true" else "bf16", "mixed_precision")
    word = str(foreign.take("base_model_precision"))
    if word in QUANTIZED:
        ours.set("model.quantize", QUANTIZED[word], "base_model_precision")
    else:
        why = "is off" if word == "no_change" else f"not supported; valid: {', '.join(QUANTIZED)}"
        foreign.leave("base_model_precision", why, neutral=word == "no_change")
    _memory(foreign, ours)


def _memory(foreign: Foreign, ours: Ours) -> None:
    """A number of blocks that wait in the CPU's memory, or all of them."""
    if blocks := foreign.take("musubi_blocks_to_swap"):
        offload(foreign, ours, blocks, "musubi_blocks_to_swap")
    elif name := next(filter(foreign.take, EVERY_BLOCK), ""):
        offload(foreign, ours, 1.0, name)


def adapter(foreign: Foreign, ours: Ours) -> None:
    """PEFT's LoRA of the attention layers, with the rank as alpha where it is absent; or a LyCORIS configuration."""
    if not foreign.absent:
        return
    if foreign.take("model_type") != "lora":
        foreign.leave("model_type", "trains no adapter; valid: lora", "adapter")
        if not foreign.has("model_type"):
            foreign.left.append(
                Left("model_type", "full", "is not given: SimpleTuner trains the whole model", "adapter")
            )
    ours.choose("targets", "unet_only", "model_type")
    if foreign.take("lora_type") == "lycoris":
        _lycoris(foreign, ours)
        return
    ours.choose("adapter", "dora" if foreign.take("use_dora") else "lora", "lora_type", "model_type", "use_dora")
    _start(foreign, ours)
    rank, alpha = foreign.take("lora_rank"), foreign.take("lora_alpha")
    ours.set("adapter.rank", rank, "lora_rank")
    ours.set("adapter.alpha", float(alpha or rank), "lora_alpha", "lora_rank")
    ours.set("adapter.dropout", foreign.take("lora_dropout"), "lora_dropout")
    ours.set("targets.feed_forward", False, "lora_type")
    ours.set("targets.projection", False, "lora_type")
    if family(ours) == "zimage":
        ours.set("targets.patterns", [pattern(rf"{REFINERS}.*\.to_")], "lora_type")
    foreign.leave("lycoris_config", "has no effect with lora_type standard", neutral=True)


LARGEST_RANK = 4096
LYCORIS = {
    "algo": coerce.name, "linear_dim": coerce.whole, "linear_alpha": coerce.number, "factor": coerce.whole,
    "constraint": coerce.positive_or_none, "rescaled": coerce.flag,
}  # fmt: skip
"""Keys of a LyCORIS configuration."""


def _lycoris(foreign: Foreign, ours: Ours) -> None:
    for name in ("lora_rank", "lora_alpha", "lora_dropout", "use_dora"):
        foreign.leave(name, "has no effect with lora_type lycoris", neutral=True)
    given = named(foreign, "lycoris_config", is_table, "a LyCORIS configuration", "set adapter=…")
    if given is None:
        why = "names a LyCORIS configuration that is not found here"
        foreign.left.append(Left("lora_type", "lycoris", f"lycoris_config {why}", "adapter"))
        return
    kind = ALGORITHMS.get(str(given.get("algo")))
    if kind is None:
        foreign.left.append(Left("lycoris_config.algo", given.get("algo"), "not supported", "adapter"))
        return
    ours.choose("adapter", kind, "lora_type", "lycoris_config", "model_type")
    keys = {"linear_dim": "adapter.rank", "linear_alpha": "adapter.alpha"}
    unused = {"linear_alpha"} if kind in UNSCALED else set()
    unused |= {"constraint", "rescaled"} if kind not in ("oft", "boft") else set()
    unused |= {"factor"} if kind != "lokr" else set()
    unused |= {"linear_dim"} if kind == "ia3" else set()
    for key, value in given.items():
        if key == "algo" or key in unused:
            continue
        if key in LYCORIS and (taken := foreign.valid(f"lycoris_config.{key}", value, LYCORIS[key])) is not None:
            if key == "linear_dim" and taken > LARGEST_RANK and kind == "lokr":
                ours.set("adapter.full_matrix", True, "lycoris_config")
                taken = LARGEST_RANK
            ours.set(keys.get(key, f"adapter.{key}"), taken, "lycoris_config")
        elif key not in LYCORIS:
            foreign.left.append(Left(f"lycoris_config.{key}", value, "is not supported: set targets"))


def _start(foreign: Foreign, ours: Ours) -> None:
    """PEFT's init_lora_weights: pissa, pissa_niter_N and olora are kinds of adapters here."""
    word = str(foreign.take("lora_init_type") or "default")
    kind, _, iterations = word.partition("_niter_")
    if kind not in ("pissa", "olora") or ours.chosen("adapter") != "lora":
        foreign.leave("lora_init_type", "adapters start as in PEFT's default")
        return
    ours.choose("adapter", kind, "lora_type", "model_type", "lora_init_type")
    if iterations.isdecimal():
        ours.set("adapter.iterations", int(iterations), "lora_init_type")


def rates(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return
    rate = foreign.take("learning_rate")
    names = ("learning_rate", "lr_scale")
    if foreign.take("lr_scale"):
        rate *= foreign.take("gradient_accumulation_steps") * foreign.take("train_batch_size")
    ours.set("optimizer.lr", float(f"{rate:.12g}"), *names)
    given = {name: (value, "optimizer_config") for name, value in (foreign.take("optimizer_config") or {}).items()}
    word = foreign.take("optimizer")
    betas = [foreign.take("optimizer_beta1"), foreign.take("optimizer_beta2")]
    if any(beta is not None for beta in betas) and word in OPTIMIZERS:
        usual = OPTIMIZERS[word].defaults.get("betas", [0.9, 0.999])
        both = [usual[i] if beta is None else beta for i, beta in enumerate(betas)]
        given["betas"] = (both, "optimizer_beta1" if betas[0] is not None else "optimizer_beta2")
    if word is not None:
        optimizer(foreign, ours, "optimizer", OPTIMIZERS, given)
    one_rate(foreign, ours)


SCHEDULES = {
    **{name: name for name in ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant")},
    "constant_with_warmup": "constant_with_warmup",
}


def schedule(foreign: Foreign, ours: Ours) -> None:
    """`constant` has no warm-up; a cosine and a polynomial end at the rate `lr_end`."""
    if not foreign.absent:
        return
    option = choose(foreign, ours, "lr_scheduler", "scheduler", SCHEDULES)
    if option is None:
        if not foreign.has("lr_scheduler"):
            foreign.left.append(Left("lr_scheduler", "sine", "SimpleTuner's default is not supported", "scheduler"))
        return
    ours.set("scheduler.warmup_steps", 0 if option == "constant" else foreign.take("lr_warmup_steps"),
             *(("lr_scheduler",) if option == "constant" else ("lr_warmup_steps",)))  # fmt: skip
    ours.set("scheduler.warmup_ratio", 0.0, "lr_scheduler")
    if option in ("cosine", "cosine_with_restarts", "polynomial"):
        ratio = min(1.0, foreign.take("lr_end") / max(foreign.take("learning_rate"), 1e-12))
        ours.set("scheduler.end_ratio", float(f"{ratio:.6g}"), "lr_end", "learning_rate")


def length(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return
    steps = foreign.take("max_train_steps") or 0
    ours.set("trainer.max_steps", steps if steps > 0 else None, "max_train_steps")
    if steps <= 0:
        ours.set("trainer.max_epochs", foreign.take("num_train_epochs"), "num_train_epochs")


def objective(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return
    if gamma := foreign.take("snr_gamma"):
        ours.set("objective.weighting.min_snr.gamma", gamma, "snr_gamma")
    ours.choose("objective/weighting", "min_snr" if gamma else "none", "snr_gamma")
    losses = {"l2": "l2", "huber": "huber", "smooth_l1": "smooth_l1"}
    choose(foreign, ours, "loss_type", "objective/loss", losses)
    timesteps(foreign, ours)
    if foreign.take("offset_noise"):
        share = foreign.take("noise_offset_probability")
        if share >= 1:
            ours.choose("objective/noise", "offset", "offset_noise")
            ours.set("objective.noise.offset.strength", foreign.take("noise_offset"), "noise_offset")
        else:
            why = f"is added to a share of {share:g} of the batches, which is not supported"
            foreign.leave("offset_noise", why)


def timesteps(foreign: Foreign, ours: Ours) -> None:
    """Of a flow: a shift of 0 gives way to one by resolution."""
    if not is_flow(ours):
        return
    names = ("flow_use_uniform_schedule", "flow_sigmoid_scale", "model_family")
    if foreign.take("flow_use_beta_schedule") and not foreign.take(names[0]):
        foreign.leave("flow_use_beta_schedule", "not supported: a beta distribution", "objective/timesteps")
    elif foreign.take(names[0]):
        ours.choose("objective/timesteps", "uniform", names[0])
    else:
        ours.choose("objective/timesteps", "logit_normal", *names)
        ours.set("objective.timesteps.std", foreign.take("flow_sigmoid_scale") or 1.0, "flow_sigmoid_scale")
    shift = foreign.take("flow_schedule_shift")
    if not shift and foreign.take("flow_schedule_auto_shift"):
        shift_by_resolution(foreign, ours, "flow_schedule_auto_shift")
    else:
        ours.set("objective.timesteps.shift", shift or 1.0, "flow_schedule_shift")


def ema(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return
    on, interval = foreign.take("use_ema"), max(1, foreign.take("ema_update_interval") or 1)
    decay = max(0.0, foreign.take("ema_decay")) ** (1 / interval) if on else 0.0
    names = ("use_ema", "ema_decay", "ema_update_interval") if on else ("use_ema",)
    ours.set("ema.decay", float(f"{decay:.12g}"), *names)


def _backends(foreign: Foreign) -> list[Any] | None:
    return named(foreign, "data_backend_config", is_list, "data backends of SimpleTuner", "set data.folder")


def images(foreign: Foreign, ours: Ours) -> None:
    given = foreign.options.get("backends")
    given = given if isinstance(given, list) else _backends(foreign)
    if given is not None:
        backends.folders(foreign, ours, given)
    if not foreign.absent:
        return
    if ours.value("data.resolution") is None:
        size, kind = foreign.take("resolution"), str(foreign.take("resolution_type"))
        ours.set("data.resolution", backends.side(size, kind), "resolution", "resolution_type")
        if kind == "pixel":
            foreign.warnings.append("gives the shorter side of images: here it is the side of a square of their area")
    ours.set("data.cache.latents", "disk", "data_backend_config")
    ours.set("data.buckets.step", foreign.take("aspect_bucket_alignment"), "aspect_bucket_alignment")
    least = foreign.take("minimum_image_size")
    if least and foreign.take("resolution_type") != "area":
        ours.set("data.min_image_size", int(least), "minimum_image_size")
    elif foreign.has("minimum_image_size"):
        foreign.leave("minimum_image_size", "areas are not supported: set data.min_image_size", neutral=not least)


def samples(foreign: Foreign, ours: Ours) -> None:
    """Pictures every `validation_steps` with one prompt."""
    prompt = foreign.take("validation_prompt")
    if foreign.take("resume_from_checkpoint") == "latest":
        ours.set("resume", "auto", "resume_from_checkpoint")
    else:
        foreign.leave("resume_from_checkpoint", "states of other trainers cannot be resumed")
    if not prompt:
        for key in [key for key in ours.values if key.startswith("callbacks.samples.")]:
            for name in ours.origins[key]:
                foreign.leave(name, "has no effect without validation_prompt", neutral=True)
            ours.drop(key)
        return
    ours.set("callbacks.samples.enabled", True, "validation_prompt")
    listed = pictures(foreign, [{"prompt": prompt}], {"prompt": "prompt"})
    ours.set("callbacks.samples.prompts", listed, "validation_prompt")
    ours.set("callbacks.samples.negative", foreign.take("validation_negative_prompt"), "validation_negative_prompt")
    ours.set("callbacks.samples.every_n_steps", foreign.take("validation_steps"), "validation_steps")
    if (size := foreign.take("validation_resolution")) is not None:
        width, height = size if isinstance(size, list) else (size, size)
        ours.set("callbacks.samples.width", width, "validation_resolution")
        ours.set("callbacks.samples.height", height, "validation_resolution")


RULES = (
    model, catalogue_rows.plain, catalogue_rows.switches, adapter, rates, schedule, length, images, objective,
    catalogue_rows.conditional, ema, samples, drop_unknown,
)  # fmt: skip
