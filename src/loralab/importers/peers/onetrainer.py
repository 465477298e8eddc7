"""OneTrainer's JSON, of all its versions, with its concepts and samples, inside or in files of their own.

Absent keys have OneTrainer's defaults. A part without a learning rate has `learning_rate`; both are scaled by the root
of the batch size where `learning_rate_scaler` says so. Counts of steps are in batches, not in optimizer steps.
"""

from __future__ import annotations

import math
import re
from typing import Any

from loralab.importers.content import Content
from loralab.importers.foreign import Foreign, Left
from loralab.importers.peers import onetrainer_concepts as concepts
from loralab.importers.peers.choices import Chosen, choose, one_rate, optimizer, other_family
from loralab.importers.peers.named import is_list, named
from loralab.importers.peers.pictures import pictures
from loralab.importers.peers.rows import row, table, tables, take, without
from loralab.importers.rules import catalogue_rows
from loralab.importers.rules.groups import drop_unknown
from loralab.importers.rules.memory import offload
from loralab.importers.rules.network import set_alpha
from loralab.importers.rules.ours import Ours
from loralab.importers.rules.timesteps import is_flow, shift_by_resolution
from loralab.schema import coerce

FAMILIES = {
    "STABLE_DIFFUSION_15": "sd15",
    **dict.fromkeys(("STABLE_DIFFUSION_20_BASE", "STABLE_DIFFUSION_21_BASE"), "sd2"),
    **dict.fromkeys(("STABLE_DIFFUSION_20", "STABLE_DIFFUSION_21"), "sd2_v"),
    "STABLE_DIFFUSION_XL_10_BASE": "sdxl",
    "Z_IMAGE": "zimage",
    "ANIMA": "anima",
}
FLOWS = ("Z_IMAGE", "ANIMA")
"""Families whose transformer is what the UNet is to others: its keys have the rows of the UNet's."""

PRECISIONS = coerce.OneOf(float_32="32-true", tfloat_32="32-true", float_16="16-mixed", bfloat_16="bf16-mixed")
DTYPES = {"FLOAT_32": "fp32", "TFLOAT_32": "fp32", "FLOAT_16": "fp16", "BFLOAT_16": "bf16"}
QUANTIZED = {"NFLOAT_4": "nf4", "INT_8": "int8", "FLOAT_8": "fp8", "INT_W8A8": "int8", "FLOAT_W8A8": "fp8"}

SAVED = coerce.OneOf(float_32="fp32", float_16="fp16", bfloat_16="bf16")
LAYOUTS = coerce.OneOf(
    safetensors="kohya",
    legacy_safetensors="kohya",
    kohya_lora="kohya",
    legacy_lora="kohya",
    diffusers_lora="diffusers",
    comfy_lora="comfyui",
    comfy_transformer="comfyui",
)
CHECKPOINTING = coerce.OneOf(on=True, off=False, cpu_offloaded=True, true=True, false=False)
ATTENTION = coerce.OneOf(
    default="eager", xformers="auto", sdp="auto", flash="auto", cutlass="auto", none="auto", **{"": "auto"}
)

_NEUTRAL = {
    "does not change what is trained": (
        "__version *.__version debug_mode debug_dir workspace_dir cache_dir tensorboard* only_cache "
        "prevent_overwrites include_train_config caching_threads prefetch_next_batch clear_cache_before_training "
        "latent_caching_epochs async_offloading enable_activation_offloading "
        "enable_async_offloading compile text_caching enable_autocast_cache fallback_train_dtype extra_model_name "
        "lora_weight_dtype vae.weight_dtype *.gradient_checkpointing *.offload_fraction *.activation_offloading "
        "train_device temp_device sample_image_format sample_video_format sample_audio_format samples_to_tensorboard "
        "sample_skip_first save_skip_first save_filename_prefix backup_before_save gradient_reduce_precision "
        "fused_gradient_reduce async_gradient_reduce async_gradient_reduce_buffer lora_decompose_norm_epsilon "
        "non_ema_sampling bundle_additional_embeddings *.include *.train_embedding"
    ),
    "text encoders have the data type of the UNet, model.dtype": (
        "text_encoder.weight_dtype text_encoder_2.weight_dtype"
    ),
    "the unit of stop_training_after": (
        "unet.stop_training_after_unit text_encoder.stop_training_after_unit text_encoder_2.stop_training_after_unit"
    ),
    "model.quantize is of all linear layers and large convolutions": "quantization quantization.*",
    "secrets and cloud machines are not used": "secrets secrets.* cloud cloud.*",
    "of an optimizer that is not chosen": "optimizer_defaults optimizer_defaults.*",
    "a detail of the optimizer that does not change what it computes": (
        "optimizer.foreach optimizer.fused optimizer.fused_back_pass optimizer.capturable optimizer.differentiable "
        "optimizer.block_wise optimizer.percentile_clipping optimizer.optim_bits optimizer.stochastic_rounding "
        "optimizer.fsdp_in_use optimizer.use_triton optimizer.log_every optimizer.is_paged optimizer.quant_block_size"
    ),
    "for another model family, kind of adapter or training": (
        "prior prior.* unet.* transformer transformer.* unconditional_transformer* text_encoder_3* text_encoder_4* "
        "text_encoder_sequence_length text_encoder_2_sequence_length effnet_encoder* decoder* vae.* "
        "embedding* additional_embeddings token_count initial_embedding_text preserve_embedding_norm frames "
        "vb_loss_strength cep_gamma dora_oft "
        "*.dropout_probability *.attention_mask *.guidance_scale "
        "*.model_name attention_mask align_prop_* custom_conditioning_image scheduler_params k_noise_sampling"
    ),
}
_NOT_SUPPORTED = {
    "circular padding is not supported": "force_circular_padding",
    "reward training is not supported": "align_prop",
    "for parts from elsewhere set model.base to the transformer, and model.vae, model.text_encoder": (
        "unet.model_name text_encoder.model_name"
    ),
    "several devices: set trainer.devices and trainer.strategy": "multi_gpu device_indexes",
    "parts are trained for the whole run": (
        "unet.stop_training_after text_encoder.stop_training_after text_encoder_2.stop_training_after"
    ),
    "the loss is the mean over the batch, whatever its size": "loss_scaler",
    "offset noise that follows the timestep is not supported": "generalized_offset_noise",
    "noise that is added to the target, too, is not supported": "perturbation_noise_weight",
    "masks always exclude the rest of the image": "unmasked_weight unmasked_probability",
    "the loss is not divided by the area of the mask": "normalize_masked_area_loss",
    "preservation outside of the mask is not supported": "masked_prior_preservation_weight",
    "masks are not changed at random": "circular_mask_generation random_rotate_and_crop",
    "schedules by class are not supported: add a YAML to conf/scheduler": "custom_learning_rate_scheduler",
    "the second text encoder always gives its second-to-last layer": "text_encoder_2_layer_skip",
    "constraining OFT's rotations is not supported": "oft_coft coft_eps",
    "Tucker decomposition and DoRA of LoKr are not supported": "lokr_use_tucker lokr_weight_decompose",
    "a detail of LoKr that is not supported": "lokr_dora_on_output lokr_vec_trick",
    "not supported by the optimizers here": "optimizer.*",
}

_ARGUMENTS = """
beta1 beta2 beta3 eps eps2 weight_decay momentum dampening nesterov d0 d_coef decouple use_bias_correction
safeguard_warmup growth_rate slice_p relative_step scale_parameter warmup_init clip_threshold decay_rate r
weight_lr_power alpha min_8bit_size
"""
ARGUMENTS = tuple(_ARGUMENTS.split())
_FLAGS = "nesterov decouple use_bias_correction safeguard_warmup relative_step scale_parameter warmup_init"
FLAGS = frozenset(_FLAGS.split())
"""Arguments of optimizers, those of them that are true or false."""

ROWS = table(
    row("training_method", "adapter=…", kind=coerce.text, by="adapter"),
    row("model_type", "model=…", kind=coerce.text, by="model"),
    row("base_model_name", "model.base", kind=coerce.path),
    row("vae.model_name", "model.vae", kind=coerce.path),
    row("weight_dtype", "model.dtype", kind=coerce.text, by="unet.weight_dtype"),
    row("unet.weight_dtype", "model.dtype", kind=coerce.text, by="weight_dtype"),
    row("unet.gradient_checkpointing", "model.gradient_checkpointing", kind=CHECKPOINTING),
    row("unet.offload_fraction", "model.offload", kind=coerce.number, by="memory"),
    row("layer_offload_fraction", "model.offload", kind=coerce.number, by="memory", neutral=True,
        why="has no effect without gradient_checkpointing=CPU_OFFLOADED"),
    row("attention_mechanism", "model.attention", kind=ATTENTION),
    row("text_encoder_layer_skip", "model.clip_skip", kind=coerce.whole, by="text_encoder"),
    row("rescale_noise_scheduler_to_zero_terminal_snr", "model.zero_terminal_snr", kind=coerce.flag, by="prediction"),
    row("force_v_prediction", "model.prediction_type", kind=coerce.flag, by="prediction"),
    row("force_epsilon_prediction", "model.prediction_type", kind=coerce.flag, by="prediction"),
    row("output_dtype", "output.precision", kind=SAVED),
    row("output_model_format", "output.layout", kind=LAYOUTS),
    row("output_model_destination", "output.name", kind=coerce.path, by="output"),
    row("concept_file_name", "data.folders", kind=coerce.path, by="images"),
    row("concepts", "data.folders", kind=tables, by="images"),
    row("aspect_ratio_bucketing", "data.buckets.enabled"),
    row("image_caching", "data.cache.latents", kind=coerce.flag, by="images"),
    row("resolution", "data.resolution", kind=coerce.text, by="images"),
    row("batch_size", "data.batch_size"),
    row("gradient_accumulation_steps", "trainer.accumulate_grad_batches"),
    row("epochs", "trainer.max_epochs"),
    row("clip_grad_norm", "trainer.gradient_clip_val"),
    row("train_dtype", "trainer.precision", kind=PRECISIONS),
    row("learning_rate", "optimizer.lr", kind=coerce.number, by="rates"),
    row("learning_rate_scaler", "optimizer.lr", kind=coerce.text, by="rates"),
    *(row(f"{part}.learning_rate", f"targets.{part}_lr", kind=coerce.number, by="rates")
      for part in ("unet", "text_encoder", "text_encoder_2")),
    *(row(f"{part}.train", "targets=…", kind=coerce.flag, by="parts")
      for part in ("unet", "text_encoder", "text_encoder_2")),
    *(row(f"{part}.dropout_probability", "data.captions.dropout_rate", kind=coerce.number, by="text_dropout")
      for part in ("text_encoder", "text_encoder_2")),
    row("learning_rate_scheduler", "scheduler=…", kind=coerce.text, by="schedule"),
    row("learning_rate_warmup_steps", "scheduler.warmup_steps", kind=coerce.number, by="schedule"),
    row("learning_rate_cycles", "scheduler.num_cycles", kind=coerce.whole, only="scheduler=cosine_with_restarts",
        neutral=True),
    row("learning_rate_min_factor", "scheduler.end_ratio", kind=coerce.number, by="schedule"),
    row("ema", "ema.decay", kind=coerce.text, by="ema"),
    row("ema_decay", "ema.decay", kind=coerce.number, by="ema", neutral=True, why="EMA is off"),
    row("ema_update_step_interval", "ema.decay", kind=coerce.whole, by="ema", neutral=True, why="EMA is off"),
    *(row(f"{name}_strength", "objective/loss=…", kind=coerce.number, by="loss")
      for name in ("mse", "mae", "log_cosh", "huber")),

    row("huber_delta", "objective/loss=…", kind=coerce.number, by="loss", neutral=True,
        why="has no effect: there is no Huber loss"),
    row("loss_weight_fn", "objective/weighting=…", kind=coerce.text, by="weighting"),
    row("loss_weight_strength", "objective.weighting.min_snr.gamma", only="objective/weighting=min_snr", neutral=True),
    row("min_snr_gamma", "objective.weighting.min_snr.gamma", only="objective/weighting=min_snr"),
    row("offset_noise_weight", "objective/noise=offset", holder="objective.noise.offset.strength"),
    row("timestep_distribution", "objective/timesteps=…", kind=coerce.text, by="timesteps"),
    *(row(name, "objective.timesteps.low", kind=coerce.number, by="timesteps", neutral=True,
          why="every timestep is trained alike")
      for name in ("min_noising_strength", "max_noising_strength", "noising_weight", "noising_bias")),
    row("timestep_shift", "objective/timesteps=…", kind=coerce.number, by="timesteps", neutral=True, why="is off"),
    row("dynamic_timestep_shifting", "objective.timesteps.shift", kind=coerce.flag, by="timesteps", neutral=True,
        why="is off"),
    row("masked_training", "data.mask_folder", kind=coerce.flag, why=(
        "masks beside the images (-masklabel.png) are not read: move them to a folder of their own, named like the "
        "images, and set data.mask_folder"), by="masks"),
    row("peft_type", "adapter=…", kind=coerce.text, by="adapter"),
    row("lora_model_name", "adapter.weights", kind=coerce.path),
    row("lora_rank", "adapter.rank", by="adapter"),
    row("lokr_dim", "adapter.rank", by="adapter", neutral=True, why="has no effect without LoKr"),
    row("oft_block_size", "adapter.rank", by="adapter", neutral=True, why="has no effect without OFT"),
    row("oft_block_share", "adapter.block_share", kind=coerce.flag, only="adapter=oft_v2", neutral=True),
    row("lora_alpha", "adapter.alpha", kind=coerce.number, by="adapter"),
    row("lora_decompose", "adapter=dora", by="adapter"),
    row("lora_decompose_output_axis", "adapter.magnitude", kind=coerce.Either("output", "input"),
        only="adapter=dora", neutral=True),
    row("lokr_decompose_both", "adapter.decompose_both", only="adapter=lokr", neutral=True),
    row("lokr_full_matrix", "adapter.full_matrix", only="adapter=lokr", neutral=True),
    row("lokr_decompose_factor", "adapter.factor", kind=lambda value: n if (n := coerce.whole(value)) > 0 else None,
        only="adapter=lokr", neutral=True),
    row("dropout_probability", "adapter.dropout"),
    row("layer_filter", "targets.patterns", kind=coerce.text, by="layers"),
    row("layer_filter_preset", "targets.patterns", kind=coerce.text, by="layers"),
    row("layer_filter_regex", "targets.patterns", kind=coerce.flag, by="layers"),
    row("optimizer.optimizer", "optimizer=…", kind=coerce.text, by="adam"),
    *(row(f"optimizer.{name}", f"optimizer.{name}", kind=coerce.flag if name in FLAGS else coerce.number, by="adam")
      for name in ARGUMENTS),
    row("sample_definition_file_name", "callbacks.samples.prompts", kind=coerce.path, by="samples"),
    row("samples", "callbacks.samples.prompts", kind=tables, by="samples"),
    *(row(f"{name}{unit}", f"callbacks.{callback}.every_n_epochs", kind=coerce.text if unit else coerce.number,
          by="times", neutral=True, why="by this unit of time is not supported, or off")
      for name, callback in (("sample_after", "samples"), ("save_every", "export"), ("backup_after", "state"),
                             ("validate_after", "validation")) for unit in ("", "_unit")),
    row("validation", "data.validation.folder", kind=coerce.flag, by="images",
        why="has no effect: there is no validation concept"),
    row("continue_last_backup", "resume", kind=coerce.Either("auto", None)),
    row("rolling_backup", "callbacks.state.keep_last", kind=coerce.flag, neutral=True, by="times",
        why="has no effect on what is trained"),
    row("rolling_backup_count", "callbacks.state.keep_last", kind=coerce.whole, only="rolling_backup", neutral=True),
    *without(_NEUTRAL, neutral=True),
    *without(_NOT_SUPPORTED),
)  # fmt: skip

ALIASES = {
    "optimizer": "optimizer.optimizer",
    "weight_decay": "optimizer.weight_decay",
    **{f"optimizer_{name}": f"optimizer.{name}" for name in ARGUMENTS},
    **{f"train_{part}": f"{part}.train" for part in ("unet", "text_encoder", "text_encoder_2", "prior")},
    **{f"train_{part}_epochs": f"{part}.stop_training_after" for part in ("unet", "text_encoder", "text_encoder_2")},
    **{f"{part}_learning_rate": f"{part}.learning_rate" for part in ("unet", "text_encoder", "text_encoder_2")},
    **{f"{part}_weight_dtype": f"{part}.weight_dtype" for part in ("unet", "text_encoder", "text_encoder_2", "vae")},
    "vae_model_name": "vae.model_name",
    "latent_caching": "image_caching",
    "gradient_checkpointing": "unet.gradient_checkpointing",
    "dataloader_threads": "caching_threads",
    "save_after": "save_every",
    "save_after_unit": "save_every_unit",
    "lora_layers": "layer_filter",
    "lora_layer_preset": "layer_filter_preset",
    "lora_layers_regex": "layer_filter_regex",
}
"""Names in earlier versions."""

ABSENT: dict[str, Any] = {
    "training_method": "FINE_TUNE",
    "model_type": "STABLE_DIFFUSION_15",
    "aspect_ratio_bucketing": True,
    "image_caching": True,
    "learning_rate_scheduler": "CONSTANT",
    "learning_rate": 3e-6,
    "learning_rate_scaler": "NONE",
    "learning_rate_warmup_steps": 200.0,
    "learning_rate_min_factor": 0.0,
    "epochs": 100,
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "clip_grad_norm": 1.0,
    "ema": "OFF",
    "ema_decay": 0.999,
    "ema_update_step_interval": 5,
    "train_dtype": "16-mixed",
    "unet.weight_dtype": "FLOAT_32",
    "unet.gradient_checkpointing": True,
    "resolution": "512",
    "mse_strength": 1.0,
    "loss_weight_fn": "CONSTANT",
    "loss_weight_strength": 5.0,
    "timestep_distribution": "UNIFORM",
    "min_noising_strength": 0.0,
    "max_noising_strength": 1.0,
    "noising_weight": 0.0,
    "noising_bias": 0.0,
    "timestep_shift": 1.0,
    "unet.train": True,
    "text_encoder.train": True,
    "text_encoder_2.train": True,
    "text_encoder_layer_skip": 0,
    "layer_filter_preset": "full",
    "layer_filter": "",
    "peft_type": "LORA",
    "lora_rank": 16,
    "lokr_dim": 16,
    "oft_block_size": 32,
    "lora_alpha": 1.0,
    "output_dtype": "fp32",
    "output_model_destination": "models/model.safetensors",
    "optimizer.optimizer": "ADAMW",
}
"""OneTrainer's defaults, of what can change the result."""

_ADAM = {"betas": [0.9, 0.999], "eps": 1e-8}
OPTIMIZERS = {
    "ADAM": Chosen("adamw", {**_ADAM, "weight_decay": 0.0}),
    "ADAMW": Chosen("adamw", {**_ADAM, "weight_decay": 0.01}),
    "ADAM_8BIT": Chosen("adam8bit", {**_ADAM, "weight_decay": 0.0}),
    "ADAMW_8BIT": Chosen("adamw8bit", {**_ADAM, "weight_decay": 0.01}),
    "AdEMAMix_8BIT": Chosen("ademamix8bit", {**_ADAM, "betas": [0.9, 0.999, 0.9999], "weight_decay": 0.01}),
    "LION": Chosen("lion", {"betas": [0.9, 0.99], "weight_decay": 0.0}),
    "LION_8BIT": Chosen("lion8bit", {"betas": [0.9, 0.999], "weight_decay": 0.0}),
    "SGD": Chosen("sgd", {"momentum": 0.0, "weight_decay": 0.0}),
    "PRODIGY": Chosen("prodigy", {**_ADAM, "weight_decay": 0.0, "slice_p": 1}),
    "DADAPT_ADAM": Chosen("dadapt_adam", {**_ADAM, "weight_decay": 0.0}),
    "SCHEDULE_FREE_ADAMW": Chosen("schedulefree", {**_ADAM, "weight_decay": 0.01}),
    "ADAFACTOR": Chosen("adafactor", {"eps": [1e-30, 1e-3], "weight_decay": 0.0, "scale_parameter": False}),
}
"""With what OneTrainer gives them where a file says null."""

NAMES = {**{name: name for name in ROWS if "*" not in name}, **ALIASES}


_MARKS = """
training_method base_model_name concept_file_name output_model_destination aspect_ratio_bucketing latent_caching
train_dtype layer_filter_preset
"""
MARKS = frozenset(_MARKS.split())
"""Keys of which no other trainer has two."""


def recognises(content: Content) -> bool:
    """Whether a file has settings, or is a list of concepts, of OneTrainer."""
    if isinstance(content.data, list):
        return concepts.recognises(content.data)
    if content.format != "json" or not isinstance(content.data, dict):
        return False
    return len(MARKS & content.data.keys()) > 1


def read(content: Content) -> Foreign:
    if isinstance(content.data, list):
        found = Foreign("onetrainer", content, concepts.NAMES, rows=ROWS)
        found.options["concepts"], found.keys["concepts"] = content.data, "concepts"
        return found
    found = Foreign("onetrainer", content, NAMES, ABSENT, ABSENT, ROWS)
    given = dict(content.data)
    if "clip_grad_norm" in given:
        given["clip_grad_norm"] = given["clip_grad_norm"] or 0.0
    if isinstance(given.get("optimizer"), dict):
        given = {"optimizer.": given.pop("optimizer"), **given}
        take(found, {f"optimizer.{key}": value for key, value in given.pop("optimizer.").items()})
    word = str(given.get("model_type") or "STABLE_DIFFUSION_15")
    if word in FLOWS:
        given = _of_the_transformer(found, given)
    take(found, given, ALIASES | TRANSFORMER if word in FLOWS else ALIASES)
    if word not in FAMILIES:
        raise other_family(found, "model_type", word.replace("_", " ").title())
    return found


TRANSFORMER = {f"transformer.{name}": f"unet.{name}" for name in (
    "train", "learning_rate", "weight_dtype", "gradient_checkpointing", "offload_fraction", "model_name",
    "stop_training_after", "stop_training_after_unit")}  # fmt: skip


def _of_the_transformer(found: Foreign, given: dict[str, Any]) -> dict[str, Any]:
    """The file without the UNet that its model does not have, and the transformer's keys one by one."""
    for key in (key for key in given if key == "unet" or key.startswith("unet_")):
        inside = given[key] if isinstance(given[key], dict) else {"": given[key]}
        of_unet = (f"{key}.{name}".rstrip(".") for name in inside)
        found.left += [Left(name, None, "the model has a transformer", is_setting=False) for name in of_unet]
    given = {key: value for key, value in given.items() if key != "unet" and not key.startswith("unet_")}
    parts = given.pop("transformer", None)
    return given | {f"transformer.{key}": value for key, value in (parts if isinstance(parts, dict) else {}).items()}


# rules


def model(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return  # concepts alone
    option = choose(foreign, ours, "model_type", "model", FAMILIES)
    if foreign.take("training_method") != "LORA":
        foreign.leave("training_method", "trains no adapter; valid: LORA", "adapter")
    zero = foreign.take("rescale_noise_scheduler_to_zero_terminal_snr")
    velocity, epsilon = foreign.take("force_v_prediction") or zero, foreign.take("force_epsilon_prediction")
    if zero:
        ours.set("model.zero_terminal_snr", True, "rescale_noise_scheduler_to_zero_terminal_snr")
    if velocity or epsilon:
        names = ("force_v_prediction", "rescale_noise_scheduler_to_zero_terminal_snr", "force_epsilon_prediction")
        ours.set("model.prediction_type", "v_prediction" if velocity else "epsilon", *names)
    skip = foreign.take("text_encoder_layer_skip")
    if is_flow(ours):
        foreign.leave("text_encoder_layer_skip", "always the second-to-last or the last layer", neutral=not skip)
        if option == "zimage" and "turbo" in str(foreign.take("base_model_name")).lower():
            ours.choose("model", "zimage_turbo", "model_type", "base_model_name")
    elif option == "sdxl":
        foreign.leave("text_encoder_layer_skip", "SDXL always uses the second-to-last layers" if skip else "is off")
    else:
        ours.set("model.clip_skip", (skip or 0) + 1, "text_encoder_layer_skip")
    _dtype(foreign, ours)


def _dtype(foreign: Foreign, ours: Ours) -> None:
    """Before version 9 parts had the data type of the whole model where they said NONE."""
    names = ("unet.weight_dtype", "weight_dtype")
    given = [word for name in names if foreign.has(name) and (word := foreign.take(name)) != "NONE"]
    word = (given or [foreign.absent["unet.weight_dtype"]])[0]
    if word in DTYPES:
        ours.set("model.dtype", DTYPES[word], *names)
    elif word in QUANTIZED:
        ours.set("model.quantize", QUANTIZED[word], *names)
        if word.endswith("A8"):
            foreign.warnings.append("computes in 8 bits, too: here only weights have 8 bits")
    else:
        foreign.leave("unet.weight_dtype", f"not supported; valid: {', '.join((*DTYPES, *QUANTIZED))}")


def memory(foreign: Foreign, ours: Ours) -> None:
    """Before parts had a share of their own, the one for all counted with checkpoints on the CPU."""
    checkpoints = str(foreign.options.get("unet.gradient_checkpointing")).upper()
    name = "unet.offload_fraction"
    if not foreign.has(name) and checkpoints == "CPU_OFFLOADED":
        name = "layer_offload_fraction"
    if (fraction := foreign.take(name)) is not None:
        offload(foreign, ours, fraction, name)


def output(foreign: Foreign, ours: Ours) -> None:
    if is_flow(ours) and str(foreign.options.get("output_model_format")).upper() == "SAFETENSORS":
        ours.set("output.layout", "comfyui", "output_model_format")
    if foreign.absent:
        ours.set("trainer.max_steps", None, "epochs")
    if path := foreign.take("output_model_destination"):
        folder, _, name = str(path).replace("\\", "/").rpartition("/")
        if name:
            ours.set("output.name", re.sub(r"\.(safetensors|ckpt|pt|bin)$", "", name), "output_model_destination")
        if folder and foreign.has("output_model_destination"):
            ours.set("output.folder", folder, "output_model_destination")


PARTS = ("unet", "text_encoder", "text_encoder_2")


def parts(foreign: Foreign, ours: Ours) -> None:
    """Which parts are trained; SD 1.x and 2.x have one text encoder."""
    if not foreign.absent:
        return
    two = ours.chosen("model") == "sdxl"
    if is_flow(ours):
        _transformer_only(foreign, ours)
        return
    unet, first, second = (foreign.take(f"{part}.train") for part in PARTS)
    names = tuple(f"{part}.train" for part in PARTS[: 3 if two else 2])
    if not two:
        foreign.leave("text_encoder_2.train", "has no effect: the model has one text encoder")
        second = first
    option = ("both" if first or second else "unet_only") if unet else "text_encoder_only"
    ours.choose("targets", option, *names)
    if option != "unet_only" and first != second:
        ours.set("targets.text_encoder", bool(first), *names)
        ours.set("targets.text_encoder_2", bool(second), *names)

    for part in PARTS:
        _end(foreign, part, ours.value("trainer.max_epochs"))


def _transformer_only(foreign: Foreign, ours: Ours) -> None:
    ours.choose("targets", "unet_only", "unet.train")
    if not foreign.take("unet.train"):
        foreign.leave("unet.train", "only the transformer is trained", "targets")
    for part in PARTS[1:]:
        name, why = f"{part}.train", "the text encoder of this family is not trained"
        foreign.leave(name, why, neutral=part != PARTS[1] or not foreign.take(name))
    for part in PARTS:
        _end(foreign, part, ours.value("trainer.max_epochs"))


def _end(foreign: Foreign, part: str, epochs: int | None) -> None:
    """The epoch after which a part is frozen, where the run goes on: not supported."""
    unit = foreign.options.get(f"{part}.stop_training_after_unit", "EPOCH")
    given = foreign.options.get(f"{part}.stop_training_after")
    after = foreign.valid(f"{part}.stop_training_after", given, coerce.whole) if given else 0
    if unit == "NEVER" or not foreign.take(f"{part}.train") or (unit == "EPOCH" and (after or 0) >= (epochs or 0)):
        foreign.leave(f"{part}.stop_training_after", "has no effect: the part is trained to the end", neutral=True)


def _trains(ours: Ours, part: str) -> bool:
    chosen = ours.chosen("targets")
    if chosen != "both":
        return (chosen == "unet_only") == (part == "unet")
    return ours.value(f"targets.{part}") is not False


def rates(foreign: Foreign, ours: Ours) -> None:
    """Each part has its own rate, or the common one; both are scaled alike."""
    if not foreign.absent:
        return
    batch, accumulated = foreign.take("batch_size"), foreign.take("gradient_accumulation_steps")
    word = str(foreign.take("learning_rate_scaler"))
    samples = (batch if word in ("BATCH", "GLOBAL_BATCH", "BOTH", "GLOBAL_BOTH") else 1) * (
        accumulated if word in ("GRADIENT_ACCUMULATION", "BOTH", "GLOBAL_BOTH") else 1
    )
    scale = math.sqrt(max(1, samples))
    names = ("learning_rate_scaler",) if foreign.has("learning_rate_scaler") else ()
    common = foreign.take("learning_rate")
    ours.set("optimizer.lr", _times(common, scale), "learning_rate", *names)
    given = {part: foreign.take(f"{part}.learning_rate") for part in PARTS}
    if given["text_encoder"] is not None and given["text_encoder_2"] is None and ours.chosen("model") == "sdxl":
        given["text_encoder_2"] = common
    for part, rate in given.items():
        if part == "text_encoder_2" and ours.chosen("model") != "sdxl":
            foreign.leave(f"{part}.learning_rate", "has no effect: the model has one text encoder")
        elif not _trains(ours, part):
            foreign.leave(f"{part}.learning_rate", "has no effect: the part is not trained")
        elif rate is not None:
            ours.set(f"targets.{part}_lr", _times(rate, scale), f"{part}.learning_rate", *names)


def _times(rate: float, scale: float) -> float:
    return float(f"{rate * scale:.12g}")


SCHEDULES = {
    "CONSTANT": "constant",
    "LINEAR": "linear",
    "COSINE": "cosine",
    "COSINE_WITH_HARD_RESTARTS": "cosine_with_restarts",
    "ADAFACTOR": "constant",
}


def schedule(foreign: Foreign, ours: Ours) -> None:
    """Warm-up above 1 is in batches, else a share of the run. OneTrainer's cosine falls to the half only."""
    if not foreign.absent:
        return
    option = choose(foreign, ours, "learning_rate_scheduler", "scheduler", SCHEDULES)
    low = foreign.take("learning_rate_min_factor")
    if option == "cosine":
        low = 0.5 + low / 2
        foreign.warnings.append("has COSINE, which falls to the half in OneTrainer: here along a full half cosine")
    if option in ("linear", "cosine", "cosine_with_restarts"):
        ours.set("scheduler.end_ratio", low, "learning_rate_min_factor", "learning_rate_scheduler")
    else:
        foreign.leave("learning_rate_min_factor", "has no effect with a constant learning rate")
    warmup = foreign.take("learning_rate_warmup_steps")
    if warmup > 1:
        steps = int(warmup / max(1, foreign.take("gradient_accumulation_steps")))
        ours.set("scheduler.warmup_steps", steps, "learning_rate_warmup_steps", "gradient_accumulation_steps")
        ours.set("scheduler.warmup_ratio", 0.0, "learning_rate_warmup_steps")
    else:
        ours.set("scheduler.warmup_ratio", max(0.0, warmup), "learning_rate_warmup_steps")


def ema(foreign: Foreign, ours: Ours) -> None:
    """Every n-th step with a decay is every step with its n-th root."""
    if str(foreign.take("ema")) not in ("GPU", "CPU"):
        if foreign.absent:
            ours.set("ema.decay", 0.0, "ema")
        return
    interval = max(1, foreign.take("ema_update_step_interval"))
    decay = max(0.0, foreign.take("ema_decay")) ** (1 / interval)
    ours.set("ema.decay", float(f"{decay:.12g}"), "ema", "ema_decay", "ema_update_step_interval")


def adam(foreign: Foreign, ours: Ours) -> None:
    """The optimizer with its arguments; null is what OneTrainer gives it."""
    if not foreign.absent:
        return
    given = {name: foreign.take(f"optimizer.{name}") for name in ARGUMENTS if foreign.has(f"optimizer.{name}")}
    word = str(foreign.take("optimizer.optimizer"))
    arguments = {name: (value, f"optimizer.{name}") for name, value in given.items()}
    defaults = OPTIMIZERS[word].defaults if word in OPTIMIZERS else {}
    names = [name for name in ("beta1", "beta2", "beta3") if name in given and word != "ADAFACTOR"]
    if names and "betas" in defaults:
        betas = [given.get(f"beta{i + 1}", beta) for i, beta in enumerate(defaults["betas"])]
        for name in names[: len(betas)]:
            arguments.pop(name)
        arguments["betas"] = (betas, f"optimizer.{names[0]}")
    if word == "ADAFACTOR" and {"eps", "eps2"} & given.keys():
        arguments.pop("eps2", None)
        arguments["eps"] = ([given.get("eps", 1e-30), given.get("eps2", 1e-3)], "optimizer.eps")
    optimizer(foreign, ours, "optimizer.optimizer", OPTIMIZERS, arguments)
    for name in ("beta1", "beta2", "beta3", "eps2"):
        if f"optimizer.{name}" in foreign.keys and name not in arguments:
            ours.origins.setdefault("optimizer", ())
            ours.origins["optimizer"] += (f"optimizer.{name}",)
    one_rate(foreign, ours)


def objective(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return
    _loss(foreign, ours)
    weightings = {"CONSTANT": "none", "MIN_SNR_GAMMA": "min_snr", "DEBIASED_ESTIMATION": "debiased"}
    option = choose(foreign, ours, "loss_weight_fn", "objective/weighting", weightings)
    if option != "min_snr":
        foreign.leave("loss_weight_strength", "has no effect without MIN_SNR_GAMMA")
    if foreign.take("min_snr_gamma"):
        ours.choose("objective/weighting", "min_snr", "min_snr_gamma")
    _timesteps(foreign, ours)


def _loss(foreign: Foreign, ours: Ours) -> None:
    strengths = {name: foreign.take(f"{name}_strength") or 0.0 for name in ("mse", "mae", "log_cosh", "huber")}
    on = [name for name, strength in strengths.items() if strength]
    names = [f"{name}_strength" for name in strengths]
    if on in (["mse"], ["mae"]) and strengths[on[0]] == 1:
        ours.choose("objective/loss", "l2" if on == ["mse"] else "l1", *names)
        return
    for name in on:
        foreign.leave(f"{name}_strength", "a mixture, scale or kind of loss that is not supported", "objective/loss")


def _timesteps(foreign: Foreign, ours: Ours) -> None:
    """LOGIT_NORMAL has mean `noising_bias` and deviation 1 + `noising_weight`; others are uniform at weight 0."""
    word, weight = str(foreign.take("timestep_distribution")), foreign.take("noising_weight")
    low, high = (int(1000 * foreign.take(f"{end}_noising_strength")) for end in ("min", "max"))
    _shift(foreign, ours)
    if word == "HEAVY_TAIL":
        ours.choose("objective/timesteps", "mode", "timestep_distribution")
        ours.set("objective.timesteps.scale", weight, "noising_weight")
    elif word == "LOGIT_NORMAL":
        ours.choose("objective/timesteps", "logit_normal", "timestep_distribution")
        ours.set("objective.timesteps.mean", foreign.take("noising_bias"), "noising_bias")
        ours.set("objective.timesteps.std", 1 + weight, "noising_weight")
    elif word == "UNIFORM" or (word in ("SIGMOID", "INVERTED_PARABOLA") and weight == 0):
        ours.choose("objective/timesteps", "uniform" if (low, high) == (0, 1000) else "range", "timestep_distribution")
    else:
        why = "not supported; valid: UNIFORM, LOGIT_NORMAL, HEAVY_TAIL"
        foreign.leave("timestep_distribution", why, "objective/timesteps")
        return
    if word in ("LOGIT_NORMAL", "HEAVY_TAIL") or (low, high) != (0, 1000):
        ours.set("objective.timesteps.low", low, "min_noising_strength")
        ours.set("objective.timesteps.high", high, "max_noising_strength")


def _shift(foreign: Foreign, ours: Ours) -> None:
    if is_flow(ours) and foreign.take("dynamic_timestep_shifting"):
        shift_by_resolution(foreign, ours, "dynamic_timestep_shifting")
        foreign.leave("timestep_shift", "overridden by dynamic_timestep_shifting", neutral=True)
    elif is_flow(ours) or foreign.take("timestep_shift") != 1:
        ours.set("objective.timesteps.shift", foreign.take("timestep_shift"), "timestep_shift")


KINDS = {"LORA": "lora", "LOHA": "loha", "LOKR": "lokr", "OFT_2": "oft_v2"}


def adapter(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return
    if foreign.take("training_method") == "LORA":
        kind = choose(foreign, ours, "peft_type", "adapter", KINDS)
        if foreign.take("lora_decompose") and kind == "lora":
            ours.choose("adapter", "dora", "lora_decompose", "peft_type")
    sizes = {"lokr": "lokr_dim", "oft_v2": "oft_block_size"}
    own = sizes.get(str(ours.chosen("adapter")), "lora_rank")
    rank = own if foreign.has(own) or own == "oft_block_size" else "lora_rank"
    ours.set("adapter.rank", foreign.take(rank), rank)
    set_alpha(foreign, ours, "adapter.alpha", foreign.take("lora_alpha"), "lora_alpha")
    if "adapter" in ours.choices:
        ours.origins["adapter"] += ("training_method",)
    if ours.chosen("adapter") == "dora" and not foreign.has("lora_decompose_output_axis"):
        ours.set("adapter.magnitude", "input", "lora_decompose_output_axis")


PRESETS = {"full": "", "attn-mlp": "attentions", "attn-only": "attn"}
"""Of UNets, where the file has no filter beside the name."""


def layers(foreign: Foreign, ours: Ours) -> None:
    """Without a filter every linear layer and convolution; else those of the UNet whose path has one of its texts."""
    if not foreign.absent:
        return
    preset, flow = foreign.take("layer_filter_preset"), is_flow(ours)
    given = foreign.has("layer_filter") or preset not in PRESETS or flow
    texts = [text.strip() for text in str(foreign.take("layer_filter") if given else PRESETS[preset]).split(",")]
    texts, names = [text for text in texts if text], ("layer_filter", "layer_filter_preset", "layer_filter_regex")
    if texts == ["attentions"]:
        ours.set("targets.conv", False, *names)
        return
    ours.set("targets.in_out", True, *names)
    if not flow:
        ours.set("adapter.conv_rank", ours.value("adapter.rank"), *names)
    if texts:
        texts = texts if foreign.take("layer_filter_regex") else list(map(re.escape, texts))
        anywhere = [text for text in texts if not text.startswith("^")]
        either = [*(text[1:] for text in texts if text.startswith("^")),
                  *([f".*(?:{'|'.join(anywhere)})"] if anywhere else [])]  # fmt: skip
        part = "transformer" if flow else "unet"
        ours.set("targets.patterns", [{"match": rf"^{part}\.(?!{'|'.join(either)})", "rank": 0}], *names)


MASKS = ("unmasked_weight", "unmasked_probability", "masked_prior_preservation_weight", "normalize_masked_area_loss")


def images(foreign: Foreign, ours: Ours) -> None:
    found = _concepts(foreign, ours)
    if found is not None:
        concepts.folders(foreign, ours, *found)
    if not foreign.absent:
        return
    for key, value in {"partial": "drop", "step": 64, "no_upscale": False}.items():
        ours.set(f"data.buckets.{key}", value, "aspect_ratio_bucketing")
    sizes = [_size(foreign, part) for part in str(foreign.take("resolution")).split(",") if part.strip()]
    if sizes and None not in sizes:
        if len(sizes) > 1:
            foreign.warnings.append("has several resolutions: every image is trained at each of them, not at one")
        many = [size if isinstance(size, list) else [size, size] for size in sizes]
        ours.set("data.resolution", sizes[0] if len(sizes) == 1 else many, "resolution")
    if not foreign.take("masked_training"):
        for name in MASKS:
            foreign.leave(name, "has no effect: masked_training is off", neutral=True)
    if foreign.take("image_caching"):
        ours.set("data.cache.latents", "disk", "image_caching")
    rate, other = (foreign.take(f"text_encoder{end}.dropout_probability") for end in ("", "_2"))
    if rate and (ours.chosen("model") != "sdxl" or other == rate):
        ours.set("data.captions.dropout_rate", rate, "text_encoder.dropout_probability",
                 "text_encoder_2.dropout_probability")  # fmt: skip
    for end in ("", "_2"):
        foreign.leave(f"text_encoder{end}.dropout_probability", "only one rate for all text encoders is supported"
                      if rate or other else "is off")  # fmt: skip


def _size(foreign: Foreign, text: str) -> int | list[int] | None:
    return foreign.valid("resolution", text.strip(), coerce.size)


def _concepts(foreign: Foreign, ours: Ours) -> tuple[str, list[Any]] | None:
    """The key below which concepts are reported, and the concepts: those of the file, or of the one that it names."""
    if inside := foreign.take("concepts"):
        foreign.leave("concept_file_name", "overridden by concepts")
        return "concepts", inside
    if {"data", "data.folder", "data.folders"} & {*ours.given.choices, *ours.given.values}:
        foreign.leave("concept_file_name", "overridden by the command line")
        return None
    listed = named(foreign, "concept_file_name", is_list, "concepts of OneTrainer", "set data.folder")
    return ("concepts", listed) if listed else None


UNITS = {"EPOCH": "every_n_epochs", "STEP": "every_n_steps"}


def times(foreign: Foreign, ours: Ours) -> None:
    """Pictures, files, states and validation by epochs or steps; OneTrainer's steps are batches."""
    if not foreign.absent:
        return
    _pictures(foreign, ours)
    for name, callback in (("sample_after", "samples"), ("save_every", "export"), ("backup_after", "state"),
                           ("validate_after", "validation")):  # fmt: skip
        unit, count = str(foreign.take(f"{name}_unit")), foreign.take(name)
        if name == "validate_after" and not ours.value("data.validation.folder"):
            continue
        if unit not in UNITS or not count or (callback == "samples" and not ours.value("callbacks.samples.enabled")):
            continue
        if unit == "STEP":
            count = max(1, round(count / max(1, foreign.take("gradient_accumulation_steps"))))
        ours.set(f"callbacks.{callback}.{UNITS[unit]}", int(count), name, f"{name}_unit")
        if callback == "state":
            ours.set("callbacks.state.enabled", True, name)
            if foreign.take("rolling_backup") and foreign.has("rolling_backup_count"):
                keep = foreign.take("rolling_backup_count")
                ours.set("callbacks.state.keep_last", keep, "rolling_backup", "rolling_backup_count")


SAMPLE = {
    "prompt": "prompt",
    "negative_prompt": "negative",
    "seed": "seed",
    "width": "width",
    "height": "height",
    "diffusion_steps": "steps",
    "cfg_scale": "guidance",
}


def _pictures(foreign: Foreign, ours: Ours) -> None:
    file, remedy = "sample_definition_file_name", "set callbacks.samples.prompts"
    given = foreign.take("samples") or named(foreign, file, is_list, "samples of OneTrainer", remedy)
    on = [sample for sample in given or [] if isinstance(sample, dict) and sample.get("enabled", True)]
    if found := pictures(foreign, on, SAMPLE):
        ours.set("callbacks.samples.enabled", True, "samples", file)
        ours.set("callbacks.samples.prompts", found, "samples", file)


RULES = (
    model, catalogue_rows.plain, catalogue_rows.switches, output, parts, adapter, layers, rates, schedule,
    catalogue_rows.conditional, ema, adam, images, objective, memory, times, drop_unknown,
)  # fmt: skip
