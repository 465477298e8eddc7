"""ai-toolkit's job, as YAML or JSON: the first process that trains; its keys are named below that process.

Absent keys have ai-toolkit's defaults. `steps` are optimizer steps, with `gradient_accumulation_steps` batches. The
base model has the precision of `train.dtype`.
"""

from __future__ import annotations

from typing import Any

from loralab.importers.content import Content
from loralab.importers.foreign import Foreign, Left
from loralab.importers.peers.choices import Chosen, choose, one_rate, optimizer, other_family
from loralab.importers.peers.entries import Shared, entry, share
from loralab.importers.peers.pictures import pictures
from loralab.importers.peers.rows import row, table, tables, take, without
from loralab.importers.rules import catalogue_rows
from loralab.importers.rules.groups import drop_unknown
from loralab.importers.rules.memory import offload
from loralab.importers.rules.ours import Ours
from loralab.importers.rules.timesteps import is_flow
from loralab.importers.rules.transformer import MODULATION, family, pattern
from loralab.importers.strangers import YAML_KEY
from loralab.schema import coerce
from loralab.schema.arguments import arguments

FAMILIES = {"sd1": "sd15", "sd15": "sd15", "sd2": "sd2", "sdxl": "sdxl", "zimage": "zimage", "anima": "anima"}
QUANTIZED = {
    **dict.fromkeys(("qfloat8", "float8"), "fp8"),
    **dict.fromkeys(("qint8", "int8", "uint8", "uint7", "uint6", "uint5"), "int8"),
}
"""By `qtype`; other names that end in 4 are of 4 bits."""
SLIDER = "concept_slider"
"""The type of a process that trains a slider by two prompts."""

FLAGS = {"is_v2": "sd2", "is_xl": "sdxl"}
"""Flags of supported families, before there was `arch`."""

PRECISIONS = coerce.OneOf(
    **dict.fromkeys(("bf16", "bfloat16"), "bf16-mixed"),
    **dict.fromkeys(("fp16", "float16"), "16-mixed"),
    **dict.fromkeys(("fp32", "float32", "float", "tf32"), "32-true"),
)
DTYPES = {"bf16-mixed": "bf16", "16-mixed": "fp16", "32-true": "fp32"}
SAVED = coerce.OneOf(
    **dict.fromkeys(("bf16", "bfloat16"), "bf16"),
    **dict.fromkeys(("fp16", "float16"), "fp16"),
    **dict.fromkeys(("fp32", "float32", "float"), "fp32"),
)


def texts(value: Any) -> list[str]:
    """A list of texts."""
    if not isinstance(value, list):
        raise ValueError("a list of texts")
    return [coerce.text(part) for part in value]


_NEUTRAL = {
    "does not change what is trained": (
        "type device performance_log_every log_dir logging.* sqlite_db_path model.dtype model.low_vram model.vae_dtype "
        "model.te_dtype model.te_device model.vae_device model.name_or_path_original train.cache_text_embeddings "
        "train.unload_text_encoder train.xformers train.sdp train.attention_backend train.disable_sampling "
        "train.skip_first_sample train.force_first_sample train.merge_network_on_save sample.format sample.sampler "
        "sample.ext sample.sample_start_step meta meta.* job version model.compile model.qtype_te "
        "model.quantize_te train.num_train_timesteps train.start_step save.push_to_hub save.hf_repo_id save.hf_private "
        "train.content_or_style_reg model.layer_offloading_text_encoder_percent "
    ),
    "for another model family, kind of adapter or training": (
        "sample.fps sample.num_frames sample.guidance_rescale sample.network_multiplier sample.adapter* "
        "sample.refiner_start_at sample.extra_values train.embedding_lr train.adapter_lr train.refiner_lr "
        "train.train_refiner train.bypass_guidance_embedding train.linear_timesteps* train.switch_boundary_every "
        "train.audio_loss_multiplier network.split_multistage_loras network.lorm "
        "network.lorm.* "
        "model.use_flux_cfg model.attn_masking model.is_* model.text_encoder_bits model.model_kwargs* "
        "model.quantize_kwargs* train.next_sample_timesteps train.max_negative_prompts train.cfg_scale "
        "train.max_cfg_scale train.differential_guidance_scale train.guidance_loss_target "
        "train.inverted_mask_prior_multiplier train.diff_output_preservation_multiplier "
        "train.paramiter_swapping_factor "
        "train.latent_feature_loss_weight train.correct_pred_norm_multiplier train.target_norm_std_value"
    ),
}
_NOT_SUPPORTED = {
    "is not supported": (
        "train.noise_multiplier train.target_noise_multiplier train.random_noise_multiplier train.random_noise_shift "
        "train.img_multiplier train.noisy_latent_multiplier train.latent_multiplier train.weight_jitter "
        "train.match_noise_norm train.learnable_snr_gos train.snr_gamma train.negative_prompt train.loss_target "
        "train.inverted_mask_prior train.standardize_* train.dynamic_noise_offset train.do_* train.train_turbo "
        "train.show_turbo_outputs train.pred_scaler train.prompt_saturation_chance train.correct_pred_norm "
        "train.target_norm_std train.latent_feature_extractor_path train.diffusion_feature_extractor* "
        "train.optimal_noise_pairing_samples train.force_consistent_noise train.blended_blur_noise "
        "train.unconditional_prompt train.single_item_batching train.short_and_long_captions* train.free_u "
        "train.adapter_assist* train.match_adapter* train.adaptive_scaling_factor train.blank_prompt_preservation* "
        "train.ema_config.use_feedback train.ema_config.param_multiplier train.prompt_dropout_prob "
    ),
    "set objective.preservation_weight and objective.preservation_caption": (
        "train.diff_output_preservation train.diff_output_preservation_class"
    ),
    "other adapters under the one that is trained are not supported: merge them with loralab merge": (
        "model.lora_path model.assistant_lora_path model.inference_lora_path model.accuracy_recovery_adapter "
        "model.refiner_name_or_path"
    ),
    "set targets.patterns": (
        "network.network_kwargs network.network_kwargs.* model.ignore_if_contains model.only_if_contains"
    ),
    "parts of the base from elsewhere are not supported": (
        "model.unet_path model.te_name_or_path model.extras_name_or_path model.unet_sample_size "
        "model.latent_space_version"
    ),
    "several devices: set trainer.devices": (
        "model.split_model_over_gpus model.split_model_other_module_param_count_scale"
    ),
    "anchors of sliders are not supported": "slider.anchor_class slider.anchor_strength",
    "a slider of another kind": "slider.*",
    "training of another kind": "adapter adapter.* embedding embedding.* decorator decorator.* guidance guidance.*",
}

OFF = {
    **{f"train.{name}": 1.0 for name in (
        "noise_multiplier", "target_noise_multiplier", "img_multiplier", "noisy_latent_multiplier", "latent_multiplier",
        "pred_scaler", "optimal_noise_pairing_samples")},
    "train.loss_target": "noise",
    "train.content_or_style": "balanced",
    "network.network_kwargs": {"ignore_if_contains": []},
}  # fmt: skip
"""Values of unsupported keys that say nothing."""

ROWS = table(
    row("name", "output.name", kind=coerce.name),
    row("training_folder", "output.folder", kind=coerce.path, by="output"),
    row("trigger_word", "data.captions.trigger", kind=coerce.text),
    row("network.type", "adapter=…", kind=coerce.text, by="network"),
    row("network.linear", "adapter.rank", by="network"),
    row("network.linear_alpha", "adapter.alpha", kind=coerce.number, by="network"),
    row("network.alpha", "adapter.alpha", kind=coerce.number, by="network"),
    row("network.conv", "adapter.conv_rank", kind=coerce.whole, by="network"),
    row("network.conv_alpha", "adapter.conv_alpha", kind=coerce.number, by="network"),
    row("network.dropout", "adapter.dropout"),
    row("network.transformer_only", "targets.in_out", kind=coerce.flag, by="parts", neutral=True),
    row("network.lokr_full_rank", "adapter.full_matrix", only="adapter=lokr", neutral=True),
    row("network.lokr_factor", "adapter.factor", kind=lambda value: n if (n := coerce.whole(value)) > 0 else None,
        only="adapter=lokr", neutral=True),
    row("save.dtype", "output.precision", kind=SAVED),
    row("save.save_every", "callbacks.export.every_n_steps", by="saving", kind=coerce.whole),
    row("save.max_step_saves_to_keep", "callbacks.export.keep_last"),
    row("save.save_format", "output.layout", kind=coerce.OneOf(safetensors="kohya", diffusers="diffusers")),
    row("datasets", "data.folders", kind=tables, by="images"),
    row("train.steps", "trainer.max_steps", kind=coerce.whole, by="length"),
    row("train.batch_size", "data.batch_size"),
    row("train.gradient_accumulation_steps", "trainer.accumulate_grad_batches", kind=coerce.whole, by="length"),
    row("train.gradient_accumulation", "trainer.accumulate_grad_batches", kind=coerce.whole, by="length"),
    row("train.lr", "optimizer.lr", kind=coerce.number, by="rates"),
    row("train.unet_lr", "targets.unet_lr", kind=coerce.number, by="rates"),
    row("train.text_encoder_lr", "targets.text_encoder_lr", kind=coerce.number, by="rates"),
    row("train.train_unet", "targets=…", kind=coerce.flag, by="parts"),
    row("train.train_text_encoder", "targets=…", kind=coerce.flag, by="parts"),
    row("model.use_text_encoder_1", "targets.text_encoder", kind=coerce.flag, by="parts", neutral=True),
    row("model.use_text_encoder_2", "targets.text_encoder_2", kind=coerce.flag, by="parts", neutral=True),
    row("train.optimizer", "optimizer=…", kind=coerce.name, by="rates"),
    row("train.optimizer_params", "optimizer.…", kind=arguments, by="rates"),
    row("train.lr_scheduler", "scheduler=…", kind=coerce.name, by="schedule"),
    row("train.lr_scheduler_params", "scheduler.…", kind=arguments, by="schedule"),
    row("train.gradient_checkpointing", "model.gradient_checkpointing", kind=coerce.flag),
    row("train.dtype", "trainer.precision", kind=PRECISIONS, by="precision"),
    row("train.max_grad_norm", "trainer.gradient_clip_val"),
    row("train.min_snr_gamma", "objective/weighting=min_snr", kind=coerce.number, by="objective"),
    row("train.noise_offset", "objective/noise=offset", holder="objective.noise.offset.strength"),
    row("train.timestep_type", "objective/timesteps=…", kind=coerce.name, by="objective"),
    row("train.noise_scheduler", "objective=…", kind=coerce.name, by="objective"),
    row("train.loss_type", "objective/loss=…", kind=coerce.name, by="objective"),
    row("train.content_or_style", "objective/timesteps=…", kind=coerce.name, by="objective"),
    row("train.min_denoising_steps", "objective.timesteps.low", kind=coerce.whole, by="objective", neutral=True,
        why="every timestep is trained"),
    row("train.max_denoising_steps", "objective.timesteps.high", kind=coerce.whole, by="objective", neutral=True,
        why="every timestep is trained"),
    row("train.reg_weight", "objective.prior_loss_weight"),
    row("train.ema_config.use_ema", "ema.decay", kind=coerce.flag, by="ema"),
    row("train.ema_config.ema_decay", "ema.decay", kind=coerce.number, by="ema", neutral=True, why="EMA is off"),
    row("model.name_or_path", "model.base", kind=coerce.path),
    row("model.arch", "model=…", kind=coerce.name, by="model"),
    *(row(f"model.{flag}", "model=…", kind=coerce.flag, by="model") for flag in FLAGS),
    row("model.is_v_pred", "model.prediction_type", kind=coerce.flag, by="model"),
    row("model.vae_path", "model.vae", kind=coerce.path),
    row("model.quantize", "model.quantize", kind=coerce.flag, by="model"),
    row("model.qtype", "model.quantize", kind=coerce.text, by="model", neutral=True, why="is off without quantize"),
    row("model.layer_offloading", "model.offload", kind=coerce.flag, by="model"),
    row("model.layer_offloading_transformer_percent", "model.offload", kind=coerce.number, by="model", neutral=True,
        why="is off without layer_offloading"),
    *(row(f"slider.{name}", f"objective.{key}", kind=kind, by="slider", why="has no effect without a slider")
      for name, key, kind in (
          ("positive_prompt", "positive", coerce.text), ("negative_prompt", "negative", coerce.text),
          ("target_class", "target", coerce.text), ("guidance_strength", "guidance", coerce.number))),
    row("sample.sample_every", "callbacks.samples.every_n_steps", kind=coerce.whole, by="samples"),
    row("sample.prompts", "callbacks.samples.prompts", kind=texts, by="samples"),
    row("sample.samples", "callbacks.samples.prompts", kind=tables, by="samples"),
    row("sample.neg", "callbacks.samples.negative", kind=coerce.text),
    row("sample.seed", "callbacks.samples.seed"),
    row("sample.walk_seed", "callbacks.samples.prompts", kind=coerce.flag, by="samples"),
    row("sample.guidance_scale", "callbacks.samples.guidance"),
    row("sample.sample_steps", "callbacks.samples.steps"),
    row("sample.width", "callbacks.samples.width", kind=coerce.whole),
    row("sample.height", "callbacks.samples.height", kind=coerce.whole),
    *without(_NEUTRAL, neutral=True),
    *without(_NOT_SUPPORTED),
)  # fmt: skip

ALIASES = {"network.rank": "network.linear"}

ABSENT: dict[str, Any] = {
    "network.linear_alpha": 1.0,
    "save.dtype": "fp16",
    "save.save_every": 1000,
    "save.max_step_saves_to_keep": 5,
    "train.steps": 1000,
    "train.batch_size": 1,
    "train.gradient_accumulation_steps": 1,
    "train.gradient_accumulation": 1,
    "train.lr": 1e-6,
    "train.train_unet": True,
    "train.train_text_encoder": False,
    "train.optimizer": "adamw",
    "train.lr_scheduler": "constant",
    "train.gradient_checkpointing": True,
    "train.dtype": "32-true",
    "train.max_grad_norm": 1.0,
    "train.loss_type": "mse",
    "train.min_denoising_steps": 0,
    "train.max_denoising_steps": 999,
    "train.reg_weight": 1.0,
    "train.ema_config.use_ema": False,
    "train.ema_config.ema_decay": 0.999,
}
"""ai-toolkit's defaults, of what can change the result."""

DATASET = table(
    row("folder_path", "path"),
    row("num_repeats", "repeats"),
    row("is_reg", "is_reg"),
    row("loss_multiplier", "weight"),
    row("mask_path", "mask_folder"),
    row("default_caption", "class_tokens"),
    row("caption_ext", "captions.extension", kind=coerce.extension),
    row("caption_dropout_rate", "captions.dropout_rate"),
    row("token_dropout_rate", "captions.tag_dropout_rate"),
    row("shuffle_tokens", "captions.shuffle"),
    row("keep_tokens", "captions.keep_tokens"),
    row("trigger_word", "captions.trigger"),
    row("flip_x", "augment.flip"),
    row("random_crop", "augment.random_crop"),
    *without({"does not change what is trained": "num_workers prefetch_factor debug fast_image_size persistent_workers "
              "cache_text_embeddings cache_clip_vision_to_disk type batch_size",
              "for video, audio, sliders and controls": "num_frames shrink_video_to_frames fps do_* auto_frame_count "
              "control_* controls inpaint_path full_size_control_images clip_* guidance_type unconditional_path "
              "replay_transforms extra_values use_short_captions"}, neutral=True),
    *without({"is not supported": "flip_y augments augmentations shuffle_augmentations random_scale scale invert_mask "
              "mask_min_value poi random_triggers random_triggers_max replacements standardize_images square_crop "
              "network_weight dataset_path",
              "captions from file names are not supported: write caption_ext": "caption_type"}),
)  # fmt: skip
DATA = {
    "resolution": "data.resolution",
    "buckets": "data.buckets.enabled",
    "bucket_tolerance": "data.buckets.step",
    "alpha_mask": "data.alpha_mask",
}
SHARED = frozenset((*DATA, "cache_latents", "cache_latents_to_disk"))
"""Keys of a dataset that apply to all data here."""
DATASET_OFF = {"scale": 1.0, "network_weight": 1.0, "random_triggers_max": 1}

NAMES = {**{name: name for name in ROWS if "*" not in name}, **ALIASES}

_ADAM = {"betas": [0.9, 0.999], "eps": 1e-6}
OPTIMIZERS = {
    "adam": Chosen("adamw", {**_ADAM, "weight_decay": 0.0}),
    "adamw": Chosen("adamw", {**_ADAM, "weight_decay": 0.01}),
    "adam8bit": Chosen("adam8bit", {**_ADAM, "weight_decay": 0.0}),
    "adam8": Chosen("adam8bit", {**_ADAM, "weight_decay": 0.0}),
    "adamw8bit": Chosen("adamw8bit", {**_ADAM, "weight_decay": 0.01}),
    "adamw8": Chosen("adamw8bit", {**_ADAM, "weight_decay": 0.0}),
    "ademamix8bit": Chosen("ademamix8bit", {"eps": 1e-6}),
    "lion": Chosen("lion", {"betas": [0.9, 0.99], "weight_decay": 0.0}),
    "lion8bit": Chosen("lion8bit", {"betas": [0.9, 0.99], "weight_decay": 0.0}),
    "prodigy": Chosen("prodigy", {**_ADAM, "weight_decay": 0.0}),
    "prodigy8bit": Chosen("prodigy", {**_ADAM, "weight_decay": 0.0}),
    "dadaptation": Chosen("dadapt_adam", {**_ADAM, "weight_decay": 0.0}),
    "adafactor": Chosen("adafactor", {"relative_step": False, "scale_parameter": False, "warmup_init": False}),
}
"""With what ai-toolkit gives them."""


def recognises(content: Content) -> bool:
    if content.format == "text":
        return {"config", "process"} <= set(YAML_KEY.findall(content.data)) and "process:" in content.data
    data = content.data
    return isinstance(data, dict) and isinstance(data.get("config"), dict) and "process" in data["config"]


def read(content: Content) -> Foreign:
    found = Foreign("ai-toolkit", content, NAMES, ABSENT, ABSENT, ROWS)
    data = _yaml(content) if content.format == "text" else content.data
    job: dict[str, Any] = config if isinstance(config := data.get("config"), dict) else {}
    processes = job.get("process")
    if not isinstance(processes, list) or not processes or not all(isinstance(one, dict) for one in processes):
        raise found.error("config.process", "is not a list of processes", "write the process that trains")
    at = next((i for i, one in enumerate(processes) if _trains(one)), 0)
    for i, other in enumerate(processes):
        if i != at:
            found.left.append(Left(f"config.process.{i}", other.get("type"), "only one process is read"))
    outer = {key: value for key, value in job.items() if key != "process"}
    take(found, {key: value for key, value in data.items() if key != "config"} | outer, ALIASES, OFF)
    take(found, processes[at], ALIASES, OFF)
    _family(found)
    if not _trains(processes[at]) or "network" not in processes[at]:
        found.left.append(Left("network", processes[at].get("type"), "trains no LoRA", "adapter"))
    return found


def _trains(process: dict[str, Any]) -> bool:
    return any(word in str(process.get("type", "trainer")) for word in ("trainer", SLIDER))


def _yaml(content: Content) -> dict[str, Any]:
    from omegaconf import OmegaConf  # slow to import

    try:
        found = OmegaConf.to_container(OmegaConf.create(content.data), resolve=False)
    except Exception as error:  # of PyYAML and OmegaConf, which have no common one
        raise content.error("the file", f"is not valid YAML: {str(error).splitlines()[0]}", "correct it") from error
    return {str(key): value for key, value in found.items()} if isinstance(found, dict) else {}


def _family(found: Foreign) -> None:
    arch = str(found.options.get("model.arch") or "").split(":")[0]
    if arch and arch not in FAMILIES:
        raise other_family(found, "model.arch", arch)
    flags = [left.key for left in found.left if left.key.startswith("model.is_") and left.value is True]
    if flags and not arch:
        raise other_family(found, flags[0], flags[0].removeprefix("model.is_"))


# rules


def model(foreign: Foreign, ours: Ours) -> None:
    arch = str(foreign.take("model.arch") or "").split(":")[0]
    flag = next((flag for flag in FLAGS if foreign.take(f"model.{flag}")), "")
    velocity = foreign.take("model.is_v_pred")
    option = FAMILIES.get(arch) or FLAGS.get(flag, "sd15")
    if option == "zimage" and "turbo" in f"{foreign.take('model.arch')} {foreign.take('model.name_or_path')}".lower():
        option = "zimage_turbo"
    option = "sd2_v" if option == "sd2" and velocity else option
    ours.choose("model", option, "model.arch", *(f"model.{flag}" for flag in FLAGS))
    if velocity:
        ours.set("model.prediction_type", "v_prediction", "model.is_v_pred")
    _memory(foreign, ours)
    precision = foreign.take("train.dtype")
    ours.set("trainer.precision", precision, "train.dtype")
    ours.set("model.dtype", DTYPES[precision], "train.dtype")


def _memory(foreign: Foreign, ours: Ours) -> None:
    """A name of bits may be followed by | and an adapter that makes up for their loss."""
    if foreign.take("model.quantize"):
        word, _, recovery = str(foreign.take("model.qtype") or "qfloat8").partition("|")
        kind = QUANTIZED.get(word, "nf4" if word.endswith("4") else None)
        if kind:
            ours.set("model.quantize", kind, "model.quantize", *(() if recovery else ("model.qtype",)))
        if recovery:
            foreign.leave("model.qtype", "adapters that make up for fewer bits are not supported")
        elif kind is None:
            foreign.leave("model.quantize", f"{word} is not supported: set model.quantize=nf4")
    if foreign.take("model.layer_offloading"):
        share = foreign.take("model.layer_offloading_transformer_percent")
        offload(foreign, ours, 1.0 if share is None else float(share), "model.layer_offloading")
        if "model.offload" in ours.values:
            ours.origins["model.offload"] += ("model.layer_offloading_transformer_percent",)


def output(foreign: Foreign, ours: Ours) -> None:
    if folder := foreign.take("training_folder"):
        name = foreign.take("name")
        ours.set("output.folder", f"{folder}/{name}" if name else folder, "training_folder", "name")


def network(foreign: Foreign, ours: Ours) -> None:
    """A convolution's alpha is its rank where it is not given; that of linear layers is 1."""
    kinds = {"lora": "lora", "locon": "locon", "lokr": "lokr", "dora": "dora"}
    if foreign.has("network.type"):
        choose(foreign, ours, "network.type", "adapter", kinds)
    else:
        ours.choose("adapter", "lora", "network.type")
    if (rank := foreign.take("network.linear")) is not None:
        ours.set("adapter.rank", rank, "network.linear")
    alpha = "network.alpha" if not foreign.has("network.linear_alpha") and foreign.has("network.alpha") else ""
    ours.set("adapter.alpha", foreign.take(alpha or "network.linear_alpha") or None, alpha or "network.linear_alpha")
    if conv := foreign.take("network.conv"):
        conv_alpha = foreign.take("network.conv_alpha")
        ours.set("adapter.conv_rank", conv, "network.conv")
        ours.set("adapter.conv_alpha", conv if conv_alpha is None else conv_alpha, "network.conv_alpha", "network.conv")


def parts(foreign: Foreign, ours: Ours) -> None:
    unet, text = foreign.take("train.train_unet"), foreign.take("train.train_text_encoder")
    names = ("train.train_unet", "train.train_text_encoder")
    ours.choose("targets", ("both" if text else "unet_only") if unet else "text_encoder_only", *names)
    name = "network.transformer_only"
    if is_flow(ours) and foreign.has(name) and not foreign.take(name):
        ours.set("targets.in_out", True, name)
    elif is_flow(ours):
        ours.set("targets.patterns", [pattern(MODULATION[family(ours)])], name)
    for key, name in (("text_encoder", "model.use_text_encoder_1"), ("text_encoder_2", "model.use_text_encoder_2")):
        if ours.chosen("targets") != "unet_only" and foreign.has(name) and not foreign.take(name):
            ours.set(f"targets.{key}", False, name)


def length(foreign: Foreign, ours: Ours) -> None:
    """With `gradient_accumulation_steps` each batch counts as a step, with `gradient_accumulation` each update."""
    batches = max(1, foreign.take("train.gradient_accumulation_steps"))
    updates = max(1, foreign.take("train.gradient_accumulation"))
    names = ("train.gradient_accumulation_steps", "train.gradient_accumulation")
    ours.set("trainer.accumulate_grad_batches", max(batches, updates), *names)
    ours.set("trainer.max_steps", max(1, foreign.take("train.steps") // batches), "train.steps", names[0])
    every = foreign.take("save.save_every")
    ours.set("callbacks.export.every_n_steps", max(1, every // batches), "save.save_every", names[0])


def rates(foreign: Foreign, ours: Ours) -> None:
    """Prodigy and D-Adaptation get a rate of 1 where it is below 0.1."""
    rate, given = foreign.take("train.lr"), dict(foreign.take("train.optimizer_params") or {})
    word = str(foreign.take("train.optimizer")).lower()
    foreign.options.update({"train.optimizer": word} if foreign.has("train.optimizer") else {})
    finds = word.startswith(("prodigy", "dadaptation"))
    ours.set("optimizer.lr", 1.0 if finds and rate < 0.1 else rate, "train.lr", "train.optimizer")
    optimizer(
        foreign, ours, "train.optimizer", OPTIMIZERS, {n: (v, "train.optimizer_params") for n, v in given.items()}
    )
    chosen = ours.chosen("targets")
    for part, other in (("unet", "text_encoder_only"), ("text_encoder", "unet_only")):
        value = foreign.take(f"train.{part}_lr")
        if value is not None and chosen != other:
            ours.set(f"targets.{part}_lr", value, f"train.{part}_lr")
        else:
            foreign.leave(f"train.{part}_lr", "has no effect: the part is not trained", neutral=True)
    one_rate(foreign, ours)


SCHEDULES = {
    "constant": "constant", "constant_with_warmup": "constant_with_warmup", "cosine": "cosine", "step": "step",
    "cosine_with_restarts": "cosine",
}  # fmt: skip


def schedule(foreign: Foreign, ours: Ours) -> None:
    """ai-toolkit's restarts come after as many steps as it trains; its linear schedule is another one."""
    option = choose(foreign, ours, "train.lr_scheduler", "scheduler", SCHEDULES)
    given = dict(foreign.take("train.lr_scheduler_params") or {})
    names = ("train.lr_scheduler_params", "train.lr_scheduler")
    warmup = given.pop("num_warmup_steps", 1000 if option == "constant_with_warmup" else 0)
    if option:
        ours.set("scheduler.warmup_steps", int(warmup), *names)
        ours.set("scheduler.warmup_ratio", 0.0, *names)
    if option == "cosine" and isinstance(low := given.pop("eta_min", 0.0), (int, float)):
        ours.set("scheduler.end_ratio", float(f"{low / max(foreign.take('train.lr'), 1e-12):.6g}"), *names)
    for key, value in given.items():
        if option == "step" and key in ("step_size", "gamma"):
            ours.set(f"scheduler.{key}", value, *names)
        else:
            foreign.left.append(Left(f"train.lr_scheduler_params.{key}", value, "is not supported"))


def objective(foreign: Foreign, ours: Ours) -> None:
    losses = {"mse": "l2", "mae": "l1"}
    choose(foreign, ours, "train.loss_type", "objective/loss", losses)
    if gamma := foreign.take("train.min_snr_gamma"):
        ours.choose("objective/weighting", "min_snr", "train.min_snr_gamma")
        ours.set("objective.weighting.min_snr.gamma", gamma, "train.min_snr_gamma")
    else:
        ours.choose("objective/weighting", "none", "train.min_snr_gamma")
    low, high = foreign.take("train.min_denoising_steps"), foreign.take("train.max_denoising_steps")
    if (low, high) in ((0, 999), (0, 1000)):
        ours.choose("objective/timesteps", "uniform", "train.min_denoising_steps", "train.max_denoising_steps")
    else:
        ours.choose("objective/timesteps", "range", "train.min_denoising_steps", "train.max_denoising_steps")
        ours.set("objective.timesteps.low", low, "train.min_denoising_steps")
        ours.set("objective.timesteps.high", high, "train.max_denoising_steps")
    why = "timesteps drawn unevenly are not supported"
    foreign.leave("train.content_or_style", why, "objective/timesteps")
    wrong = str(foreign.take("train.noise_scheduler")) == "flowmatch" and not is_flow(ours)
    why = "the base model is no flow" if wrong else "the noise schedule is that of the base model"
    foreign.leave("train.noise_scheduler", why, neutral=not wrong)
    _density(foreign, ours)


def _density(foreign: Foreign, ours: Ours) -> None:
    """How timesteps of a flow are drawn."""
    name, given = "train.timestep_type", foreign.has("train.timestep_type")
    if not is_flow(ours):
        foreign.leave(name, "has no effect: the base model is no flow", neutral=True)
        return
    kind = str(foreign.take(name)) if given else "sigmoid"
    if kind == "sigmoid":
        ours.choose("objective/timesteps", "logit_normal", name)
    elif kind not in ("linear", "shift"):
        why = "not supported: timesteps are drawn evenly; valid: sigmoid, linear, shift"
        foreign.leave(name, why, "objective/timesteps")
    ours.set("objective.timesteps.shift", SHIFT if kind == "shift" else 1.0, name)


SHIFT = 3.0
"""At which Z-Image and Anima are sampled, and with `shift` trained."""


def slider(foreign: Foreign, ours: Ours) -> None:
    """By two prompts; there also at a strength of −1, away from the first."""
    if foreign.options.get("type") != SLIDER:
        return
    ours.choose("objective", "slider", "type")
    given = {"positive": "positive_prompt", "negative": "negative_prompt", "target": "target_class",
             "guidance": "guidance_strength"}  # fmt: skip
    usual = {"positive": "", "negative": "", "target": "", "guidance": 3.0}
    for key, name in given.items():
        value = foreign.take(f"slider.{name}")
        ours.set(f"objective.{key}", usual[key] if value is None else value, f"slider.{name}")
    foreign.warnings.append("trains its slider at a strength of -1, too: here at 1 alone")


def ema(foreign: Foreign, ours: Ours) -> None:
    on = foreign.take("train.ema_config.use_ema")
    names = ("train.ema_config.use_ema", "train.ema_config.ema_decay")
    ours.set("ema.decay", foreign.take(names[1]) if on else 0.0, *(names if on else names[:1]))
    if on:
        ours.set("ema.warmup", False, names[0])


def images(foreign: Foreign, ours: Ours) -> None:
    given = foreign.take("datasets") or []
    cached = any(one.get("cache_latents") or one.get("cache_latents_to_disk") for one in given)
    disk = any(one.get("cache_latents_to_disk") for one in given)
    found: list[dict[str, Any]] = []
    shared: Shared = {}
    for number, one in enumerate(given):
        where = f"datasets.{number}"
        for key in SHARED & one.keys():
            share(foreign, shared, key, f"{where}.{key}", one[key])
        rest = {
            key: value for key, value in one.items() if key not in (*DATA, "cache_latents", "cache_latents_to_disk")
        }
        found.append(entry(foreign, where, rest, DATASET, DATASET_OFF, {"caption_ext": ".txt"}))
        if cached:
            found[-1].get("augment", {}).pop("random_crop", None)
    if found:
        ours.choose("data", "folder", "datasets")
        ours.set("data.folders", found, "datasets")
    ours.set("data.cache.latents", "disk" if disk else "memory" if cached else "none", "datasets")
    _data(foreign, ours, shared)


def _data(foreign: Foreign, ours: Ours, shared: Shared) -> None:
    values = {"resolution": 512, "buckets": True, "bucket_tolerance": 64, "alpha_mask": False}
    for key, (place, value) in shared.items():
        if key not in values:
            continue
        kind = _sizes if key == "resolution" else coerce.of(DATA[key])
        if (taken := foreign.valid(place, value, kind)) is not None:
            values[key] = taken
    for key, value in values.items():
        ours.set(DATA[key], value, "datasets")


def _sizes(value: Any) -> Any:
    """One side, or several to train on each of them."""
    sides = [coerce.whole(part) for part in (value if isinstance(value, list) else [value])]
    sides = list(dict.fromkeys(sides))
    if not sides:
        raise ValueError("a size, or a list of sizes")
    return sides[0] if len(sides) == 1 else [[side, side] for side in sides]


SAMPLE = {"prompt": "prompt", "neg": "negative", "seed": "seed", "width": "width", "height": "height",
          "guidance_scale": "guidance", "sample_steps": "steps"}  # fmt: skip


def samples(foreign: Foreign, ours: Ours) -> None:
    """`[trigger]` stands for the trigger word; with `walk_seed` each prompt has the next seed."""
    given = foreign.take("sample.samples") or [{"prompt": text} for text in foreign.take("sample.prompts") or []]
    names = ("sample.prompts", "sample.samples", "sample.walk_seed")
    word, walk, seed = foreign.take("trigger_word"), foreign.take("sample.walk_seed"), foreign.take("sample.seed") or 0
    found = []
    for number, one in enumerate(given):
        if isinstance(text := one.get("prompt"), str):
            prompt = {"prompt": text.replace("[trigger]", str(word or ""))}
            found.append({**({"seed": seed + number} if walk else {}), **one, **prompt})
    if listed := pictures(foreign, found, SAMPLE):
        ours.set("callbacks.samples.prompts", listed, *names)
        batches = max(1, foreign.take("train.gradient_accumulation_steps"))
        every = foreign.take("sample.sample_every") or 100
        ours.set("callbacks.samples.enabled", True, *names)
        ours.set("callbacks.samples.every_n_steps", max(1, every // batches), "sample.sample_every")


RULES = (
    model, catalogue_rows.plain, catalogue_rows.switches, output, network, parts, length, rates, schedule, objective,
    catalogue_rows.conditional, slider, ema, images, samples, drop_unknown,
)  # fmt: skip
