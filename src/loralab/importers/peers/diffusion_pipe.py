"""diffusion-pipe's TOML, and the dataset TOML that it names (or that alone).

Absent keys have diffusion-pipe's defaults. A LoRA has its rank as alpha and sits on every linear layer of the
UNet's blocks and of both text encoders, or of the transformer's blocks. Steps are optimizer steps; batches that are
not full are dropped.
"""

from __future__ import annotations

import math
from typing import Any

from loralab.importers.content import Content
from loralab.importers.foreign import Foreign, Left
from loralab.importers.peers.choices import Chosen, choose, one_rate, optimizer, other_family
from loralab.importers.peers.entries import Shared, entry, share
from loralab.importers.peers.named import named
from loralab.importers.peers.rows import row, table, tables, take, without
from loralab.importers.rules import catalogue_rows
from loralab.importers.rules.groups import drop_unknown
from loralab.importers.rules.memory import offload
from loralab.importers.rules.ours import Ours
from loralab.importers.rules.timesteps import NOT_A_FLOW, is_flow, shift_by_resolution
from loralab.importers.rules.transformer import MODULATION, REFINERS, family, pattern
from loralab.schema import coerce

FAMILIES = {"sdxl": "sdxl", "z_image": "zimage", "anima": "anima", "cosmos_predict2": "anima"}
LLM = ("model.llm_path", "model.qwen_path")
"""Of Cosmos-Predict2 those with Qwen3 as text encoder are Anima."""

DTYPES = coerce.OneOf(bfloat16="bf16", float16="fp16", float32="fp32")
QUANTIZED = {**dict.fromkeys(("float8", "float8_e4m3fn", "float8_e5m2"), "fp8"), "nf4": "nf4"}
PRECISIONS = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}

_NEUTRAL = {
    "does not change what is trained": (
        "pipeline_stages partition_method partition_split disable_block_swap_for_eval "
        "caching_batch_size map_num_proc compile steps_per_print logging_steps x_axis_examples "
        "reentrant_activation_checkpointing video_clip_mode resume_from_checkpoint regenerate_cache adapter.dtype "
        "optimizer.gradient_release checkpoint_every_n_minutes eval_micro_batch_size_per_gpu "
        "image_eval_micro_batch_size_per_gpu eval_gradient_accumulation_steps eval_before_first_step "
        "eval_every_n_epochs eval_every_n_steps eval_every_n_examples "
        "monitoring.wandb* upload_hf* huggingface* optimizer.kahan_sum optimizer.foreach"
    ),
    "data.cache.text says whether texts are cached": "model.cache_text_embeddings",
    "model.quantize holds the text encoder in as many bits as the rest": (
        "model.text_encoder_nf4 model.text_encoder_fp8"
    ),
    "for another model family": "model.guidance model.clip_path model.ckpt_path model.t5_path adapter.fuse_adapters",
}
_NOT_SUPPORTED = {
    "is not supported": "pseudo_huber_c save_every_n_examples optimizer.stabilize optimizer.*",
    "validation is on one folder: set data.validation.folder": "eval_datasets",
    "give the adapter file in that folder: adapter.weights": "adapter.init_from_existing",
    "alpha is always the rank in diffusion-pipe": "adapter.alpha",
    "other adapters under the one that is trained are not supported: merge them with loralab merge": (
        "model.merge_adapters"
    ),
    "the text conditioner is that of the base model": "model.llm_adapter_path",
    "losses at several resolutions are not supported": "model.multiscale_loss_weight",
    "a caption is what is in its file: tags, a sentence, or both": "model.caption_mode",
}

LAYERS = {"self_attn": r"\.attn1\.", "cross_attn": r"\.attn2\.", "mlp": r"\.ff\.", "mod": r"\.norm\d\.linear_"}
"""Anima's layers that may have rates of their own, as they are named here."""

ROWS = table(
    row("model.type", "model=…", kind=coerce.name, by="model"),
    *(row(f"model.{name}", "model.base", kind=coerce.path)
      for name in ("checkpoint_path", "diffusion_model", "transformer_path")),
    *(row(f"model.{name}", "model.vae", kind=coerce.path) for name in ("vae", "vae_path")),
    *(row(name, "model.text_encoder", kind=coerce.path) for name in LLM),
    row("model.text_encoders", "model.text_encoder", kind=tables, by="model"),
    *(row(f"model.{name}", "model.quantize", kind=coerce.name, by="model")
      for name in ("transformer_dtype", "diffusion_model_dtype")),
    row("blocks_to_swap", "model.offload", kind=coerce.whole, by="model"),
    row("model.timestep_sample_method", "objective/timesteps=…", kind=coerce.name, by="timesteps"),
    row("model.sigmoid_scale", "objective.timesteps.std", kind=coerce.number, by="timesteps", neutral=True,
        why="has no effect without logit_normal"),
    row("model.shift", "objective.timesteps.shift", kind=coerce.number, by="timesteps"),
    row("model.flux_shift", "objective.timesteps.shift", kind=coerce.flag, by="timesteps", neutral=True, why="is off"),
    row("model.shuffle_tags", "data.captions.shuffle"),
    row("model.tag_delimiter", "data.captions.separator", kind=lambda value: coerce.text(value).strip() or ","),
    row("model.shuffle_keep_first_n", "data.captions.keep_tokens"),
    row("model.tag_dropout_percent", "data.captions.tag_dropout_rate"),
    row("model.caption_dropout_percent", "data.captions.dropout_rate"),
    row("model.llm_adapter_lr", "targets.text_conditioner_lr", kind=coerce.number, by="adapter"),
    *(row(f"model.{name}_lr", "targets.patterns", kind=coerce.number, by="adapter") for name in LAYERS),
    row("model.dtype", "trainer.precision", kind=DTYPES, by="model"),
    row("model.v_pred", "model.prediction_type", kind=coerce.flag, by="model"),
    row("model.min_snr_gamma", "objective/weighting=min_snr", kind=coerce.number, by="objective"),
    row("model.debiased_estimation_loss", "objective/weighting=debiased", kind=coerce.flag, by="objective"),
    row("model.unet_lr", "targets.unet_lr", kind=coerce.number, by="rates"),
    row("model.text_encoder_1_lr", "targets.text_encoder_lr", kind=coerce.number, by="rates"),
    row("model.text_encoder_2_lr", "targets.text_encoder_2_lr", kind=coerce.number, by="rates"),
    row("adapter.type", "adapter=…", kind=coerce.name, by="adapter"),
    row("adapter.rank", "adapter.rank", kind=coerce.whole, by="adapter"),
    row("adapter.dropout", "adapter.dropout"),
    row("adapter.decompose_factor", "adapter.factor", kind=coerce.whole, only="adapter=lokr"),
    row("optimizer.type", "optimizer=…", kind=coerce.name, by="rates"),
    row("optimizer.lr", "optimizer.lr", kind=coerce.number, by="rates"),
    row("optimizer.betas", "optimizer.betas", kind=coerce.numbers, by="rates"),
    *(row(f"optimizer.{name}", f"optimizer.{name}", kind=coerce.number, by="rates")
      for name in ("weight_decay", "eps", "momentum", "d_coef", "d0")),
    row("force_constant_lr", "optimizer.lr", kind=coerce.number, by="rates"),
    row("lr_scheduler", "scheduler=…", kind=coerce.name, by="schedule"),
    row("warmup_steps", "scheduler.warmup_steps", kind=coerce.whole, by="schedule"),
    row("epochs", "trainer.max_epochs", kind=coerce.whole, by="length", 
        why="max_steps decides, even where epochs end sooner"),
    row("max_steps", "trainer.max_steps", by="length", kind=coerce.whole),
    row("micro_batch_size_per_gpu", "data.batch_size", kind=coerce.whole, by="batch"),
    row("image_micro_batch_size_per_gpu", "data.batch_size", kind=coerce.whole, by="batch"),
    row("gradient_accumulation_steps", "trainer.accumulate_grad_batches"),
    row("gradient_clipping", "trainer.gradient_clip_val"),
    row("activation_checkpointing", "model.gradient_checkpointing", kind=lambda value: value == "unsloth" or
        coerce.flag(value)),
    row("save_every_n_epochs", "callbacks.export.every_n_epochs", kind=coerce.whole),
    row("save_every_n_steps", "callbacks.export.every_n_steps", kind=coerce.whole),
    row("checkpoint_every_n_epochs", "callbacks.state.every_n_epochs", kind=coerce.whole),
    row("save_dtype", "output.precision", kind=DTYPES, by="model"),
    row("output_dir", "output.folder", kind=coerce.path),
    row("dataset", "data.folders", kind=coerce.path, by="images"),
    row("datasets", "data.folders", kind=dict, by="images"),
    row("monitoring.enable_wandb", "logger=…", kind=coerce.Either("wandb", None)),
    *without(_NEUTRAL, neutral=True),
    *without(_NOT_SUPPORTED),
)  # fmt: skip

ABSENT: dict[str, Any] = {
    "model.dtype": "bf16",
    "adapter.dropout": 0.0,
    "optimizer.lr": 1e-3,
    "warmup_steps": 0,
    "lr_scheduler": "constant",
    "micro_batch_size_per_gpu": 1,
    "gradient_accumulation_steps": 1,
    "gradient_clipping": 1.0,
    "activation_checkpointing": False,
}
"""diffusion-pipe's defaults, of what can change the result, and those of its optimizers."""

_ADAM = {"betas": [0.9, 0.999], "eps": 1e-8}
OPTIMIZERS = {
    "adamw": Chosen("adamw", {**_ADAM, "weight_decay": 0.01}),
    "adamw8bit": Chosen("adamw8bit", {**_ADAM, "weight_decay": 0.01}),
    "adamw8bitkahan": Chosen("adamw8bit", {"betas": [0.9, 0.99], "eps": 1e-8, "weight_decay": 0.01}),
    "adamw_optimi": Chosen("adamw", {"betas": [0.9, 0.99], "eps": 1e-6, "weight_decay": 0.0}),
    "sgd": Chosen("sgd", {"momentum": 0.0}),
    "prodigy": Chosen("prodigy", {**_ADAM, "weight_decay": 0.0}),
    "lion": Chosen("lion", {"betas": [0.9, 0.99], "weight_decay": 0.0}),
}
"""With what diffusion-pipe, or the library that it takes them from, gives them."""

FOLDER = table(
    row("path", "path"),
    row("num_repeats", "repeats"),
    row("mask_path", "mask_folder"),
    row("caption_prefix", "captions.prefix"),
    row("shuffle_tags", "captions.shuffle"),
    row("cache_shuffle_num", "captions.shuffle", kind=lambda value: coerce.whole(value) > 0),
    row("cache_shuffle_delimiter", "captions.separator", kind=lambda value: coerce.text(value).strip() or ","),
    *without({"there are no videos": "frame_buckets", "images of any shape are put into the nearest bucket": (
        "num_ar_buckets"), "images without a caption have an empty one": "skip_empty_caption"}, neutral=True),
    *without({"only buckets of one area are supported: data.buckets": "ar_buckets size_buckets"}),
)  # fmt: skip
SHARED = ("resolutions", "enable_ar_bucket", "min_ar", "max_ar")
"""Keys of a dataset that apply to all data here."""
STEP = 32
"""Sides of buckets are multiples of it."""

NAMES = {name: name for name in ROWS if "*" not in name}


def recognises(content: Content) -> bool:
    """Whether a TOML has diffusion-pipe's tables, or folders of a dataset."""
    if content.format not in ("toml", "json") or not isinstance(content.data, dict):
        return False
    return is_dataset(content.data) or _is_main(content.data)


def _is_main(data: dict[str, Any]) -> bool:
    model, marks = data.get("model"), {"micro_batch_size_per_gpu", "pipeline_stages", "activation_checkpointing"}
    inside = isinstance(model, dict) and "type" in model
    return inside and (bool(marks & data.keys()) or {"dataset", "optimizer"} <= data.keys())


def is_dataset(data: Any) -> bool:
    """Whether a table has folders of a dataset."""
    directory = data.get("directory") if isinstance(data, dict) else None
    return isinstance(directory, list) and any(isinstance(one, dict) and "path" in one for one in directory)


def read(content: Content) -> Foreign:
    if not _is_main(content.data):
        found = Foreign("diffusion-pipe", content, {"datasets": "datasets"}, rows=ROWS)
        found.options["datasets"], found.keys["datasets"] = content.data, "datasets"
        return found
    found = Foreign("diffusion-pipe", content, NAMES, ABSENT, ABSENT, ROWS)
    take(found, content.data)
    kind = str(found.options.get("model.type"))
    if kind not in FAMILIES or (kind == "cosmos_predict2" and not any(map(found.has, LLM))):
        raise other_family(found, "model.type", kind)
    return found


# rules


def model(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return  # a dataset alone
    option = FAMILIES[str(foreign.take("model.type"))]
    if option == "zimage" and "turbo" in str(foreign.take("model.diffusion_model")).lower():
        option = "zimage_turbo"
    ours.choose("model", option, "model.type")
    dtype = foreign.take("model.dtype")
    ours.set("model.dtype", dtype, "model.dtype")
    ours.set("trainer.precision", PRECISIONS[dtype], "model.dtype")
    if is_flow(ours):
        ours.set("output.layout", "comfyui", "model.type")
    else:
        ours.set("model.max_token_length", 225, "model.type")
    _parts(foreign, ours)
    if foreign.take("model.v_pred"):
        ours.set("model.prediction_type", "v_prediction", "model.v_pred")
        ours.set("model.zero_terminal_snr", True, "model.v_pred")
    ours.set("output.precision", foreign.take("save_dtype") or dtype, "save_dtype", "model.dtype")


def _parts(foreign: Foreign, ours: Ours) -> None:
    """The text encoder of a list of one, and how the transformer is held."""
    given = foreign.take("model.text_encoders") or []
    path = foreign.valid("model.text_encoders.0.path", given[0].get("path"), coerce.path) if given else None
    if path is not None:
        ours.set("model.text_encoder", path, "model.text_encoders")
        for key in given[0].keys() - {"path"}:
            place = f"model.text_encoders.0.{key}"
            foreign.left.append(Left(place, given[0][key], "found in the file itself", is_setting=False))
    for name in ("model.transformer_dtype", "model.diffusion_model_dtype"):
        if (word := foreign.take(name)) in QUANTIZED:
            ours.set("model.quantize", QUANTIZED[word], name)
        else:
            foreign.leave(name, f"not in fewer bits: set model.dtype; valid: {', '.join(QUANTIZED)}")
    if (blocks := foreign.take("blocks_to_swap")) is not None:
        offload(foreign, ours, blocks, "blocks_to_swap")


RANK = 4096
"""The largest; LoKr takes a higher one for full matrices."""


def adapter(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return
    if not foreign.has("adapter.type"):
        foreign.left.append(Left("adapter", None, "there is none: the whole model is trained", "adapter"))
        return
    kind = choose(foreign, ours, "adapter.type", "adapter", {"lora": "lora", "lokr": "lokr"})
    rank = foreign.take("adapter.rank")
    if rank is not None:
        if kind == "lokr" and rank > RANK:
            ours.set("adapter.full_matrix", True, "adapter.rank")
        ours.set("adapter.rank", min(rank, RANK), "adapter.rank")
    ours.set("adapter.alpha", None, "adapter.rank")
    if is_flow(ours):
        _transformer(foreign, ours)
        return
    ours.choose("targets", "both", "adapter.type")
    ours.set("targets.patterns", [{"match": r"^unet\..*time_emb_proj"}], "adapter.type")


def _transformer(foreign: Foreign, ours: Ours) -> None:
    """The linear layers of all blocks; of Anima also those of its text conditioner, unless its rate is 0."""
    ours.choose("targets", "unet_only", "adapter.type")
    rates = {name: rate for name in LAYERS if (rate := foreign.take(f"model.{name}_lr")) is not None}
    patterns = [pattern(f".*{LAYERS[name]}", lr=rate) for name, rate in rates.items()]
    if "mod" not in rates:
        patterns.append(pattern(MODULATION[family(ours)]))
    if family(ours) == "zimage":
        patterns.append(pattern(REFINERS))
    ours.set("targets.patterns", patterns, "adapter.type", *(f"model.{name}_lr" for name in rates))
    if family(ours) == "anima":
        rate = foreign.take("model.llm_adapter_lr")
        ours.set("targets.text_conditioner", rate != 0, "model.llm_adapter_lr", "model.type")
        if rate:
            ours.set("targets.text_conditioner_lr", rate, "model.llm_adapter_lr")


def rates(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return
    forced = foreign.take("force_constant_lr")
    ours.set("optimizer.lr", foreign.take("optimizer.lr") if forced is None else forced, "optimizer.lr",
             "force_constant_lr")  # fmt: skip
    given = {}
    for name in ("betas", "weight_decay", "eps", "momentum", "d_coef", "d0"):
        if (value := foreign.take(f"optimizer.{name}")) is not None:
            given[name] = (value, f"optimizer.{name}")
    if foreign.has("optimizer.type"):
        foreign.options["optimizer.type"] = str(foreign.take("optimizer.type")).lower()
        optimizer(foreign, ours, "optimizer.type", OPTIMIZERS, given)
    for name, key in (("unet", "unet"), ("text_encoder_1", "text_encoder"), ("text_encoder_2", "text_encoder_2")):
        rate = foreign.take(f"model.{name}_lr")
        if rate is not None and forced is None:
            ours.set(f"targets.{key}_lr", rate, f"model.{name}_lr")
        else:
            foreign.leave(f"model.{name}_lr", "overridden by force_constant_lr")
    if not is_flow(ours):
        _second(foreign, ours)
    one_rate(foreign, ours)


def _second(foreign: Foreign, ours: Ours) -> None:
    """The second text encoder has the common rate where it has none of its own; here it would follow the first."""
    if "targets.text_encoder_lr" in ours.values and "targets.text_encoder_2_lr" not in ours.values:
        ours.set("targets.text_encoder_2_lr", ours.value("optimizer.lr"), "optimizer.lr")


def schedule(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return
    forced = foreign.has("force_constant_lr")
    words = {name: name for name in ("constant", "linear", "cosine")}
    option = choose(foreign, ours, "lr_scheduler", "scheduler", words) if not forced else "constant"
    if forced:
        ours.choose("scheduler", "constant", "force_constant_lr")
        foreign.leave("lr_scheduler", "overridden by force_constant_lr")
        foreign.leave("warmup_steps", "overridden by force_constant_lr")
    if option:
        ours.set("scheduler.warmup_steps", 0 if forced else foreign.take("warmup_steps"),
                 "force_constant_lr" if forced else "warmup_steps")  # fmt: skip
        ours.set("scheduler.warmup_ratio", 0.0, "lr_scheduler")


def objective(foreign: Foreign, ours: Ours) -> None:
    if not foreign.absent:
        return
    gamma, debiased = foreign.take("model.min_snr_gamma"), foreign.has("model.debiased_estimation_loss")
    on = [*(["min_snr"] if gamma is not None else []), *(["debiased"] if debiased else [])]
    ours.choose("objective/weighting", on if len(on) > 1 else (on or ["none"])[0],
                "model.min_snr_gamma", "model.debiased_estimation_loss")  # fmt: skip
    if gamma is not None:
        ours.set("objective.weighting.min_snr.gamma", gamma, "model.min_snr_gamma")
    timesteps(foreign, ours)


def timesteps(foreign: Foreign, ours: Ours) -> None:
    """Of a flow: a shift decides over one by resolution."""
    if not is_flow(ours):
        for name in ("timestep_sample_method", "sigmoid_scale", "shift", "flux_shift"):
            foreign.leave(f"model.{name}", NOT_A_FLOW, neutral=True)
        return
    method = "model.timestep_sample_method"
    word = str(foreign.take(method)) if foreign.has(method) else "logit_normal"
    if word == "logit_normal":
        ours.choose("objective/timesteps", "logit_normal", method, "model.type")
        if (scale := foreign.take("model.sigmoid_scale")) is not None:
            ours.set("objective.timesteps.std", scale, "model.sigmoid_scale")
    elif word == "uniform":
        ours.choose("objective/timesteps", "uniform", method)
    else:
        foreign.leave(method, "not supported; valid: logit_normal, uniform", "objective/timesteps")
    if shift := foreign.take("model.shift"):
        ours.set("objective.timesteps.shift", shift, "model.shift")
        foreign.leave("model.flux_shift", "overridden by shift", neutral=True)
    elif foreign.take("model.flux_shift"):
        shift_by_resolution(foreign, ours, "model.flux_shift")
    else:
        ours.set("objective.timesteps.shift", 1.0, "model.type")


def batch(foreign: Foreign, ours: Ours) -> None:
    """Of images, where there are videos too."""
    if not foreign.absent:
        return
    names = ("image_micro_batch_size_per_gpu", "micro_batch_size_per_gpu")
    size = foreign.take(names[0]) or foreign.take(names[1])
    ours.set("data.batch_size", size, *[name for name in names if foreign.has(name)][:1])
    ours.set("data.buckets.partial", "drop", *names[1:])
    steps, epochs = foreign.take("max_steps"), foreign.take("epochs")
    ours.set("trainer.max_steps", steps, "max_steps")
    if steps is None and epochs is not None:
        ours.set("trainer.max_epochs", epochs, "epochs")
    if "callbacks.state.every_n_epochs" in ours.values:
        ours.set("callbacks.state.enabled", True, "checkpoint_every_n_epochs")


def images(foreign: Foreign, ours: Ours) -> None:
    given = foreign.options.get("datasets")
    if not isinstance(given, dict):
        given = named(
            foreign, "dataset", is_dataset, "a dataset of diffusion-pipe with [[directory]]", "set data.folder"
        )
    if given is None:
        return
    general = {key: value for key, value in given.items() if key != "directory"}
    listed = foreign.valid("directory", given.get("directory"), tables) or []
    shared = {key: (key, general[key]) for key in SHARED if key in general}
    inherited = {key: value for key, value in general.items() if key not in SHARED}
    found: list[dict[str, Any]] = []
    for key in shared:
        foreign.datasets_taken.add(f"datasets.{key}")
    for number, one in enumerate(listed):
        where = f"directory.{number}"
        for key in SHARED:
            if key in one:
                share(foreign, shared, key, f"{where}.{key}", one[key])
        own = {key: value for key, value in one.items() if key not in SHARED}
        folder = entry(foreign, "datasets", inherited, FOLDER, {}, {}) if inherited else {}
        found.append(_merged(folder, entry(foreign, where, own, FOLDER, {}, {})))
    foreign.left = [left for i, left in enumerate(foreign.left) if left not in foreign.left[:i]]
    if not found:
        raise foreign.error("directory", "contains no folder, so no images", "add [[directory]] with path")
    names = ("dataset", "datasets")
    ours.choose("data", "folder", *names)
    ours.set("data.folders", found, *names)
    _sizes(foreign, ours, shared)


def _merged(general: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    return {**general, **{k: {**general.get(k, {}), **v} if isinstance(v, dict) else v for k, v in own.items()}}


def _sizes(foreign: Foreign, ours: Ours, shared: Shared) -> None:
    """Resolutions, of which each image is trained at each, and the limits of buckets that follow from aspect ratios."""
    names = ("dataset", "datasets")
    values = {key: value for key, (_, value) in shared.items()}
    sizes = foreign.valid("resolutions", values.get("resolutions", [512]), _resolutions) or [512]
    sides = [math.sqrt(size[0] * size[1]) if isinstance(size, list) else size for size in sizes]
    many = [size if isinstance(size, list) else [size, size] for size in sizes]
    ours.set("data.resolution", sizes[0] if len(sizes) == 1 else many, *names)
    on = bool(foreign.valid("enable_ar_bucket", values.get("enable_ar_bucket", False), coerce.flag))
    ours.set("data.buckets.enabled", on, *names)
    ours.set("data.buckets.step", STEP, *names)
    low, high = (foreign.valid(key, values.get(key, 1), coerce.number) or 1.0 for key in ("min_ar", "max_ar"))
    widest = max(high, 1 / low if low > 0 else 1.0, 1.0)
    if on and widest > 1 and len(sides) == 1:
        ours.set("data.buckets.min_resolution", int(sides[0] / math.sqrt(widest) / STEP) * STEP, *names)
        ours.set("data.buckets.max_resolution", math.ceil(sides[0] * math.sqrt(widest) / STEP) * STEP, *names)


def _resolutions(value: Any) -> list[Any]:
    """Sides, or pairs of width and height."""
    found = [coerce.size(part) for part in value] if isinstance(value, list) else []
    if not found:
        raise ValueError("a list of sizes: [512, 1024]")
    return found


RULES = (
    model, catalogue_rows.plain, adapter, rates, schedule, images, objective, batch, catalogue_rows.conditional,
    drop_unknown,
)  # fmt: skip
