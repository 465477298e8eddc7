"""The table of parameters: 65 by number, then further options of sd-scripts, then options that are not supported.

docs/parameters.md is written from it, settings files are read with it (importers/rules/catalogue_rows.py), and the
metadata of adapter files is written with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from loralab.schema import coerce
from loralab.schema.arguments import arguments, by_expression, expressions
from loralab.schema.coerce import Coercion


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of other trainers, and the setting here that has its value.

    An option without a key is not supported. Which values are valid follows from the constructor that takes the
    setting; the row adds what does not: another `kind` of value, a condition, or a computation.
    """

    sd_scripts: str
    """sd-scripts' name, "" where it has none."""
    key: str
    """The setting here, "" where there is none. `group=option` is chosen where the option is on, `group=…` by value."""
    what: str
    """What it does, or why it is not supported."""
    kind: Coercion | None = None
    """How its values are converted, where not as the constructor of the setting takes them."""
    number: int = 0
    old: str = ""
    """Its name in old JSON files."""
    section: str = ""
    ss: bool | str = False
    """Whether the metadata of an adapter file has its value, under `ss_` and its name; or another name."""
    holder: str = ""
    """The setting that has its value, where that is not `key`."""
    only: str = ""
    """Conditions, separated by spaces: `group=option|option` here is chosen (`!=`: is not), or another option is on."""
    why: str = ""
    """What is reported where it has no effect, if it is not that `only` does not hold."""
    by: str = ""
    """The function in importers/rules that computes the setting, or the options whose rows have it as a condition."""
    neutral: bool = False
    """Whether it cannot change the result: not applied, it is counted, not listed."""

    @property
    def name(self) -> str:
        """Its name here: that of sd-scripts, or the old one where sd-scripts has none."""
        return self.sd_scripts or self.old

    @property
    def metadata(self) -> str:
        """Its name in the metadata of an adapter file; "" where it is not there as it is."""
        return f"ss_{self.name if self.ss is True else self.ss}" if self.ss else ""

    @property
    def coercion(self) -> Coercion:
        """How its values are converted."""
        if self.kind is not None:
            return self.kind
        is_switch = "=" in self.key and not self.holder
        return coerce.flag if is_switch else coerce.of(self.holder or self.key)

    @property
    def is_flag(self) -> bool:
        """Whether a command line of sd-scripts gives it without a value."""
        if not (self.key and self.sd_scripts) or "." in self.sd_scripts:
            return False
        return self.coercion in (coerce.flag, coerce.flag_or_count) or isinstance(self.coercion, coerce.Either)

    @property
    def is_row(self) -> bool:
        """Whether the row says everything about how it becomes a setting."""
        return bool(self.key) and not self.by


WHERE, CAPTIONS, IMAGES = "Files and folders", "Captions", "Images, buckets, caches"
NETWORK, OPTIMISATION, SAVING = "Network", "Optimisation", "Saving"
SECTIONS = (WHERE, CAPTIONS, IMAGES, NETWORK, OPTIMISATION, SAVING)

_THRESHOLD = "objective/loss=huber|smooth_l1"
_EVERY = "has no effect: every timestep is trained"
_PICTURES = "has no effect: pictures need both prompts and an interval"
_NAMED = "only of Anima: set targets.patterns, by the names of modules here"
_INTERVALS = "has no effect: nothing is saved at such intervals"


def _row(section: str, number: int, old: str, sd_scripts: str, key: str, what: str, **more: Any) -> Option:
    return Option(sd_scripts, key, what, number=number, old=old, section=section, **more)


# fmt: off
PARAMETERS = (
    _row(
        WHERE, 1, "base_model", "pretrained_model_name_or_path", "model.base",
        "Base model: one `.safetensors` or `.ckpt` file in the original layout, a diffusers folder, or a Hub id. A "
        "file that is not found, is not a checkpoint, or is of another family than `model=` is an error before "
        "anything heavy loads.", kind=coerce.path,
    ),
    _row(
        WHERE, 2, "img_folder", "train_data_dir", "data.folder",
        "Training images. Sub-folders `N_name` are repeated N times and `name` is the caption of images without a "
        "caption file; other images count once. Several folders with their own settings: `data.folders`.",
        kind=coerce.path,
    ),
    _row(
        WHERE, 3, "output_folder", "output_dir", "output.folder",
        "Folder of the adapter files; default: the run's own folder. Created if missing; an error before training "
        "if not writable.", kind=coerce.path,
    ),
    _row(
        WHERE, 4, "change_output_name", "output_name", "output.name",
        "File name of the adapter, without extension; epochs and steps are appended as `-000005` and "
        "`-step00000500`, the final file has the plain name.", ss=True,
    ),
    _row(
        WHERE, 5, "save_json_folder", "", "settings.save_folder",
        "Writes the complete settings of the run as a JSON under the old names (with a `loralab` section for what "
        "these cannot express), which `settings.load` reads.", kind=coerce.path,
    ),
    _row(
        WHERE, 6, "load_json_path", "", "settings.load",
        "Starts from a settings file: see [settings files](settings.md). Precedence: the defaults of conf/ < the "
        "file < the command line.", kind=coerce.path,
    ),
    _row(
        WHERE, 7, "json_load_skip_list", "", "settings.skip",
        "Names to ignore in that file. A name that the file does not contain is a warning.", kind=coerce.names,
    ),
    _row(
        WHERE, 8, "multi_run_folder", "", "settings.run_folder",
        "Trains one run for each settings file in the folder, in the order of their names, in `run1/`, `run2/` …; a "
        "failed run is reported and the others continue; a finished one is not repeated; nothing is overwritten.",
        kind=coerce.path,
    ),
    _row(
        WHERE, 9, "save_json_only", "", "settings.save_only",
        "Writes the settings file and stops; no model is loaded.", kind=coerce.flag,
    ),
    _row(
        WHERE, 61, "log_dir", "logging_dir", "logger.tensorboard.save_dir",
        "Folder of the logs; default: the run's own folder. Existing logs are never overwritten: a new version is "
        "written beside them.", kind=coerce.path, only="logger!=wandb", why="has no effect with Weights & Biases",
    ),
    _row(
        CAPTIONS, 50, "caption_extension", "caption_extension", "data.captions.extension",
        "Extension of caption files, default `.txt`. With or without the dot.", kind=coerce.extension,
    ),
    _row(
        CAPTIONS, 10, "caption_dropout_rate", "caption_dropout_rate", "data.captions.dropout_rate",
        "Probability, per sample and epoch, that the whole caption is dropped.", ss=True,
    ),
    _row(
        CAPTIONS, 11, "caption_dropout_every_n_epochs", "caption_dropout_every_n_epochs",
        "data.captions.dropout_every_n_epochs",
        "In epochs n, 2n, 3n … (counted from 1) all captions are empty. 0 = never.", ss=True,
    ),
    _row(
        CAPTIONS, 12, "caption_tag_dropout_rate", "caption_tag_dropout_rate", "data.captions.tag_dropout_rate",
        "Probability, per sample and epoch, that a tag (other than the kept ones) is dropped.", ss=True,
    ),
    _row(
        CAPTIONS, 27, "shuffle_captions", "shuffle_caption", "data.captions.shuffle",
        "Shuffles the tags (separated by `data.captions.separator`, default `,`) for each sample and epoch.", ss=True,
    ),
    _row(
        CAPTIONS, 28, "keep_tokens", "keep_tokens", "data.captions.keep_tokens",
        "The first N tags stay in front and are never dropped. With `data.captions.keep_tokens_separator` (such as "
        "`|||`) the part before it is kept; a second one marks a kept end.", ss=True,
    ),
    _row(
        CAPTIONS, 30, "tag_occurrence_txt_file", "", "callbacks.tag_occurrence.enabled",
        "Writes a text file with the number of occurrences of each tag (including repeats), beside the adapter. "
        "`objective.tag_weighting` weights a sample's loss by the rarity of its tags (default off).", kind=coerce.flag,
    ),
    _row(
        CAPTIONS, 31, "sort_tag_occurrence_alphabetically", "", "callbacks.tag_occurrence.sort",
        "`count` (default) or `alphabetical`.", kind=coerce.Either("alphabetical", "count"),
    ),
    _row(
        CAPTIONS, 51, "max_clip_token_length", "max_token_length", "model.max_token_length",
        "75, 150 or 225 tokens, encoded in chunks of 75, each with its own start and end token. Longer captions are "
        "counted; `data.captions.overlong`: `truncate` (default), `skip` or `error`.", ss=True, only="model!=anima",
        why="has no effect: it is of CLIP",
    ),
    _row(
        IMAGES, 32, "train_resolution", "resolution", "data.resolution",
        "Pixel budget: a number (square) or `[w, h]`. A list of several resolutions trains on all of them.",
        kind=coerce.size,
    ),
    _row(
        IMAGES, 52, "buckets", "enable_bucket", "data.buckets.enabled",
        "Aspect-ratio buckets; off = resize the shorter side and crop the centre to `data.resolution`. "
        "`data.captions.token_buckets` (default off) batches captions of one chunk separately from longer ones.",
        ss=True,
    ),
    _row(
        IMAGES, 33, "min_bucket_resolution", "min_bucket_reso", "data.buckets.min_resolution",
        "Minimum side of a bucket.", ss=True, by="buckets",
    ),
    _row(
        IMAGES, 34, "max_bucket_resolution", "max_bucket_reso", "data.buckets.max_resolution",
        "Maximum side of a bucket.", ss=True, by="buckets",
    ),
    _row(
        IMAGES, 62, "bucket_reso_steps", "bucket_reso_steps", "data.buckets.step",
        "Bucket sides are multiples of this (a multiple of 8 for SD 1.x and 2.x, of 32 for SDXL; default 64); "
        "anything else is an error.",
    ),
    _row(
        IMAGES, 63, "bucket_no_upscale", "bucket_no_upscale", "data.buckets.no_upscale",
        "Images are never enlarged; small ones get a bucket of their own size.", ss=True,
    ),
    _row(
        IMAGES, 41, "reg_img_folder", "reg_data_dir", "data.reg_folder",
        "Regularisation (prior-preservation) images, laid out like `data.folder`. Each epoch uses as many of them as "
        "there are training images (including repeats), in turn.", kind=coerce.path,
    ),
    _row(
        IMAGES, 56, "color_aug", "color_aug", "data.augment.color",
        "Random hue, saturation and brightness. Cannot be combined with cached latents.", ss=True,
    ),
    _row(
        IMAGES, 57, "flip_aug", "flip_aug", "data.augment.flip",
        "Mirrors half of the samples; works with cached latents (both versions are cached).", ss=True,
    ),
    _row(
        IMAGES, 58, "random_crop", "random_crop", "data.augment.random_crop",
        "Random instead of centre crop. With cached latents it needs `data.cache.variants` above 1: that many crops "
        "are cached.", ss=True,
    ),
    _row(
        IMAGES, 55, "cache_latents", "cache_latents", "data.cache.latents",
        "`none`, `memory` or `disk`. An edited image, another VAE or another resolution is detected, and only "
        "missing latents are encoded.", kind=coerce.flag, by="cache",
    ),
    _row(
        IMAGES, 22, "num_workers", "max_data_loader_n_workers", "data.num_workers",
        "Loader processes. The result does not depend on them.",
    ),
    _row(
        IMAGES, 23, "persistent_workers", "persistent_data_loader_workers", "data.persistent_workers",
        "Keeps loader processes between epochs.",
    ),
    _row(
        IMAGES, 24, "batch_size", "train_batch_size", "data.batch_size",
        "Samples per batch and device.", ss="batch_size_per_device",
    ),
    _row(NETWORK, 13, "net_dim", "network_dim", "adapter.rank", "Rank.", by="network"),
    _row(
        NETWORK, 14, "alpha", "network_alpha", "adapter.alpha",
        "The adapter's output is scaled by alpha / rank. Stored in the adapter file.", by="network",
    ),
    _row(
        NETWORK, 35, "lora_model_for_resume", "network_weights", "adapter.weights",
        "Starts from an adapter file (weights only; the optimizer state is new). Rank and alpha are those of the file.",
        kind=coerce.path,
    ),
    _row(
        NETWORK, 39, "unet_only", "network_train_unet_only", "targets=unet_only",
        "Trains adapters on the UNet only (the file contains no others).", by="targets",
    ),
    _row(
        NETWORK, 40, "text_only", "network_train_text_encoder_only", "targets=text_encoder_only",
        "Trains adapters on the text encoders only. Cannot be combined with `unet_only`.", by="targets",
    ),
    _row(
        NETWORK, 42, "clip_skip", "clip_skip", "model.clip_skip",
        "Uses the text encoder's hidden state this many layers from the end (1 = last), then the final layer norm. "
        "SDXL always uses the second-to-last layers, without that norm.", ss=True, by="model",
    ),
    _row(NETWORK, 59, "vae", "vae", "model.vae", "Another VAE: a file, folder or Hub id.", kind=coerce.path),
    _row(NETWORK, 64, "v2", "v2", "model=sd2", "Stable Diffusion 2.x.", by="model"),
    _row(
        NETWORK, 65, "v_parametrization", "v_parameterization", "model.prediction_type",
        "`epsilon` or `v_prediction` (`model=sd2_v`). Read from the checkpoint if possible; conflicts are warned of.",
        kind=coerce.flag, by="model",
    ),
    _row(
        OPTIMISATION, 19, "learning_rate", "learning_rate", "optimizer.lr", "Learning rate; default 1e-4.",
        kind=coerce.number, ss=True, by="optimizer",
    ),
    _row(
        OPTIMISATION, 21, "unet_lr", "unet_lr", "targets.unet_lr",
        "Learning rate of the UNet's adapters; null = `optimizer.lr`; 0 = frozen.",
        ss=True, only="targets!=text_encoder_only", why="the UNet is not trained",
    ),
    _row(
        OPTIMISATION, 20, "text_encoder_lr", "text_encoder_lr", "targets.text_encoder_lr",
        "Learning rate of the text encoder's adapters; null = `optimizer.lr`; 0 = frozen.",
        ss=True, kind=coerce.rates, by="rates",
    ),
    _row(
        OPTIMISATION, 54, "use_8bit_adam", "use_8bit_adam", "optimizer=adam8bit",
        "8-bit Adam of bitsandbytes (also `adamw8bit`). Works on a CPU, too. The state of tensors with fewer than "
        "4096 elements stays in fp32: the run reports how many are 8-bit.", by="optimizer",
    ),
    _row(
        OPTIMISATION, 15, "scheduler", "lr_scheduler", "scheduler=…",
        "constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, step, plateau; in "
        "optimizer steps.", kind=coerce.name, by="scheduler",
    ),
    _row(
        OPTIMISATION, 16, "cosine_restarts", "lr_scheduler_num_cycles", "scheduler.num_cycles",
        "Number of cosine cycles (hard restarts).", only="scheduler=cosine_with_restarts",
    ),
    _row(
        OPTIMISATION, 17, "scheduler_power", "lr_scheduler_power", "scheduler.power",
        "Power of the polynomial schedule.", only="scheduler=polynomial",
    ),
    _row(
        OPTIMISATION, 18, "warmup_lr_ratio", "", "scheduler.warmup_ratio",
        "Share of the optimizer steps for warm-up from 0 (or their number, `scheduler.warmup_steps`: "
        "`lr_warmup_steps`).", by="warmup",
    ),
    _row(
        OPTIMISATION, 25, "num_epochs", "max_train_epochs", "trainer.max_epochs", "Passes over the data.", by="length",
    ),
    _row(
        OPTIMISATION, 29, "max_steps", "max_train_steps", "trainer.max_steps",
        "Optimizer steps; where set, they take precedence over epochs (in sd-scripts' own files it is the other way "
        "round, which is respected when reading them). One of the two on the command line replaces the other in a "
        "file. Zero is an error.", by="length",
    ),
    _row(
        OPTIMISATION, 46, "gradient_acc_steps", "gradient_accumulation_steps", "trainer.accumulate_grad_batches",
        "Batches per optimizer step. Batches of different buckets may share a step.", ss=True,
    ),
    _row(
        OPTIMISATION, 45, "gradient_checkpointing", "gradient_checkpointing", "model.gradient_checkpointing",
        "Recomputes activations in the backward pass: less memory, the same gradients. A number above one: of that "
        "many blocks of the UNet.", kind=coerce.flag_or_count, ss=True,
    ),
    _row(
        OPTIMISATION, 47, "mixed_precision", "mixed_precision", "trainer.precision",
        "`32-true`, `16-mixed`, `bf16-mixed`. Old values: no, fp16, bf16 (or a boolean). `16-mixed` on a CPU is an "
        "error.", kind=coerce.precision,
    ),
    _row(
        OPTIMISATION, 53, "xformers", "xformers", "model.attention",
        "`auto` (the fastest on the device), `sdpa`, `xformers`, `eager`. Where xformers is not available, the key is "
        "an error, while a settings file gets sdpa with a warning.", kind=coerce.flag, by="model",
    ),
    _row(
        OPTIMISATION, 44, "prior_loss_weight", "prior_loss_weight", "objective.prior_loss_weight",
        "Weight of the loss of regularisation images.", ss=True,
    ),
    _row(
        OPTIMISATION, 43, "test_seed", "seed", "seed",
        "Seeds everything; the same seed and settings give the same file, byte for byte, on the same machine.",
        ss=True, kind=coerce.whole,
    ),
    _row(
        SAVING, 26, "save_every_n_epochs", "save_every_n_epochs", "callbacks.export.every_n_epochs",
        "Saves the adapter every N epochs (see also `every_n_steps` and `keep_last`).", by="saving",
    ),
    _row(
        SAVING, 49, "save_as", "save_model_as", "output.format",
        "`safetensors`, `ckpt`, `pt`, `bin`; `output.layout` is `kohya`, `diffusers` or `comfyui`.",
    ),
    _row(
        SAVING, 48, "save_precision", "save_precision", "output.precision",
        "`fp16` (default), `bf16`, `fp32`.", kind=coerce.save_precision,
    ),
    _row(
        SAVING, 60, "no_meta", "no_metadata", "output.metadata=false",
        "Omits the training metadata (`ss_*`, `modelspec.*`) from a safetensors file.", kind=coerce.Either(False, True),
    ),
    _row(
        SAVING, 38, "training_comment", "training_comment", "output.comment",
        "Stored in the metadata (`ss_training_comment`).", ss=True,
    ),
    _row(
        SAVING, 36, "save_state", "save_state", "callbacks.state.enabled",
        "Saves the complete training state with every adapter file, at the end, and when interrupted.",
        kind=coerce.flag, by="saving",
    ),
    _row(
        SAVING, 37, "load_previous_save_state", "resume", "resume",
        "Resumes from such a state exactly where it stopped, even in the middle of an epoch. A path, or `auto`: the "
        "newest valid state with the same settings under `resume_root`.", kind=coerce.path,
    ),
)

FURTHER = (
    Option(
        "adaptive_noise_scale", "objective.noise.offset.adaptive",
        "Noise offset that follows the image's brightness.", ss=True, only="objective/noise=offset",
    ),
    Option("additional_parameters", "", "Further command-line options, which override the others.", kind=coerce.text),
    Option(
        "blocks_to_swap", "model.offload", "Blocks of the model whose weights wait in the CPU's memory.",
        kind=coerce.whole,
    ),
    Option("alpha_mask", "data.alpha_mask", "Transparency weights the loss of each pixel."),
    Option("cache_latents_to_disk", "data.cache.latents=disk", "Keeps cached latents on disk.", by="cache"),
    Option(
        "cache_text_encoder_outputs", "data.cache.text", "Caches the outputs of the text encoders.", kind=coerce.flag,
    ),
    Option("caption_prefix", "data.captions.prefix", "Text before every caption."),
    Option("caption_separator", "data.captions.separator", "Separator of tags."),
    Option("caption_suffix", "data.captions.suffix", "Text after every caption."),
    Option(
        "conditioning_data_dir", "data.mask_folder", "Folder of loss masks.",
        kind=coerce.path, only="masked_loss", why="has no effect with masked_loss off",
    ),
    Option(
        "dataset_config", "data.folders", "A separate dataset configuration, which is read, too.",
        kind=coerce.path, by="folders",
    ),
    Option(
        "dataset_repeats", "data.folders", "Repeats of the images of `in_json`.",
        kind=coerce.whole, by="images", why="has no effect: there is nothing to repeat",
    ),
    Option("debiased_estimation_loss", "objective/weighting=debiased", "Noisy timesteps count more."),
    Option(
        "discrete_flow_shift", "objective.timesteps.shift", "Moves the timesteps of a flow towards noise.",
        by="timesteps",
    ),
    Option("enable_wildcard", "data.captions.wildcards", "Picks one of `{a|b}` and one line at random."),
    Option("epoch", "trainer.max_epochs", "The GUI's number of epochs, where neither maximum is set.", by="length"),
    Option(
        "flow_logit_mean", "objective.timesteps.mean", "In sd-scripts' forks for flows of SDXL.", by="timesteps",
    ),
    Option("flow_logit_std", "objective.timesteps.std", "In sd-scripts' forks for flows of SDXL.", by="timesteps"),
    Option(
        "flow_model", "model.prediction_type", "The model predicts a flow, in sd-scripts' forks: `model=sdxl_flow`.",
        kind=coerce.flag, by="model",
    ),
    Option(
        "flow_timestep_distribution", "objective/timesteps=…", "uniform or logit_normal, in sd-scripts' forks.",
        kind=coerce.words("uniform logit_normal"), by="timesteps",
    ),
    Option(
        "flow_uniform_base_pixels", "objective.timesteps.shift_side", "Pixels at which a shift by resolution is none.",
        kind=coerce.number, by="timesteps",
    ),
    Option(
        "flow_uniform_shift", "objective.timesteps.shift_side", "Shifts timesteps by resolution.",
        kind=coerce.flag, by="timesteps",
    ),
    Option(
        "flow_uniform_static_ratio", "objective.timesteps.shift", "Shifts timesteps alike at all resolutions.",
        by="timesteps",
    ),
    *(
        Option(name, "model.quantize", what, kind=coerce.flag, by="model")
        for name, what in (
            ("fp8_base", "The frozen base in 8 bits."),
            ("fp8_base_unet", "The same, of transformers."),
            ("fp8_scaled", "The same, with scales, as it is here."),
        )
    ),
    Option(
        "height_resolution", "data.resolution", "The height, where it differs from `train_resolution`.",
        by="resolution",
    ),
    Option("huber_c", "objective.loss.c", "Threshold of the Huber and the smooth L1 loss.", ss=True, only=_THRESHOLD),
    Option("huber_scale", "objective.loss.scale", "Scale of that threshold.", ss=True, only=_THRESHOLD),
    Option(
        "huber_schedule", "objective.loss.schedule", "How that threshold follows the timestep.",
        ss=True, only=_THRESHOLD,
    ),
    Option("in_json", "data.metadata", "One metadata file with the captions.", kind=coerce.path),
    Option(
        "ip_noise_gamma", "objective/noise=input_perturbation", "Input perturbation.",
        ss=True, holder="objective.noise.input_perturbation.strength",
    ),
    Option(
        "ip_noise_gamma_random_strength", "objective.noise.input_perturbation.random_strength",
        "Random strength up to it.", ss=True, only="objective/noise=input_perturbation",
    ),
    Option(
        "keep_tokens_separator", "data.captions.keep_tokens_separator",
        "Marks the end of the kept part of a caption.",
    ),
    Option("locon", "adapter=locon", "LoCon, in early versions of the LoRA Easy Training scripts.", by="network"),
    Option(
        "log_with", "logger=…", "tensorboard, wandb, or all.",
        kind=coerce.OneOf(tensorboard="tensorboard", wandb="wandb", all="many"),
    ),
    Option(
        "logit_mean", "objective.timesteps.mean", "With weighting_scheme logit_normal: above 0 for clean timesteps.",
        by="timesteps",
    ),
    Option("logit_std", "objective.timesteps.std", "With weighting_scheme logit_normal.", by="timesteps"),
    Option(
        "loss_type", "objective/loss=…", "l2, l1, huber, smooth_l1.",
        kind=coerce.OneOf(l2="l2", l1="l1", huber="huber", smooth_l1="smooth_l1"),
    ),
    Option("lr_scheduler_args", "scheduler.…", "Further arguments of the schedule.", kind=arguments, by="scheduler"),
    Option(
        "lr_scheduler_min_lr_ratio", "scheduler.end_ratio", "Final learning rate as a share of the full one.",
        only="scheduler=cosine",
    ),
    Option(
        "lr_scheduler_timescale", "scheduler.timescale", "Time scale of inverse_sqrt, in optimizer steps.",
        only="scheduler=inverse_sqrt",
    ),
    Option(
        "lr_scheduler_type", "scheduler=…", "A schedule by its class: StepLR or ReduceLROnPlateau.",
        kind=coerce.name, by="scheduler",
    ),
    Option("lr_warmup", "scheduler.warmup_ratio", "The GUI's warm-up, as a percentage of the steps.", by="warmup"),
    Option(
        "lr_warmup_steps", "scheduler.warmup_steps", "Warm-up in optimizer steps; below 1 a share of them.",
        kind=coerce.number, by="warmup",
    ),
    Option(
        "lyco", "adapter=…", "LyCORIS, in the LoRA Easy Training scripts; the argument `algo` chooses the kind.",
        kind=coerce.flag, by="network",
    ),
    Option(
        "masked_loss", "data.mask_folder", "Weights the loss by masks.",
        kind=coerce.flag, by="conditioning_data_dir",
        why="has no effect without conditioning_data_dir, the folder of masks",
    ),
    Option(
        "max_grad_norm", "trainer.gradient_clip_val",
        "Clips the gradient norm of all adapters together.", ss=True,
    ),
    Option(
        "max_timestep", "objective.timesteps.high", "The timestep after the last one that is trained.",
        by="timesteps", why=_EVERY,
    ),
    Option(
        "min_snr_gamma", "objective/weighting=min_snr", "Clean timesteps count less.",
        ss=True, holder="objective.weighting.min_snr.gamma",
    ),
    Option(
        "min_timestep", "objective.timesteps.low", "The first timestep that is trained.",
        by="timesteps", why=_EVERY,
    ),
    Option("mode_scale", "objective.timesteps.scale", "With weighting_scheme mode.", by="timesteps"),
    Option(
        "multires_noise_discount", "objective.noise.multires.discount", "Weight of each coarser noise.",
        ss=True, only="objective/noise=multires",
    ),
    Option(
        "multires_noise_iterations", "objective/noise=multires", "Noise of several resolutions.",
        ss=True, holder="objective.noise.multires.iterations",
    ),
    Option("network_args", "adapter.…", "Further arguments of the network.", kind=arguments, by="network"),
    Option("network_dropout", "adapter.dropout", "Dropout of elements inside the adapter.", ss=True),
    Option(
        "network_module", "adapter=…", "networks.lora, networks.loha, networks.lokr, lycoris.kohya.",
        kind=coerce.name, by="network",
    ),
    Option(
        "noise_offset", "objective/noise=offset", "Noise with a random constant in each channel.",
        ss=True, holder="objective.noise.offset.strength",
    ),
    Option(
        "noise_offset_random_strength", "objective.noise.offset.random_strength", "Random strength up to it.",
        ss=True, only="objective/noise=offset",
    ),
    Option(
        "noise_offset_type", "objective/noise=…", "Chooses between noise offset and multires noise.",
        kind=coerce.text, by="noise_offset multires_noise_iterations",
    ),
    Option("optimizer_args", "optimizer.…", "Further arguments of the optimizer.", kind=arguments, by="optimizer"),
    Option(
        "optimizer_type", "optimizer=…", "AdamW, AdamW8bit, Lion, Lion8bit, Prodigy, DAdaptAdam, Adafactor …",
        kind=coerce.name, by="optimizer",
    ),
    Option(
        "sample_at_first", "callbacks.samples.before", "Pictures before the first step.",
        by="samples", why=_PICTURES,
    ),
    Option(
        "sample_every_n_epochs", "callbacks.samples.every_n_epochs", "Pictures every N epochs.",
        by="samples", why=_PICTURES,
    ),
    Option(
        "sample_every_n_steps", "callbacks.samples.every_n_steps", "Pictures every N optimizer steps.",
        by="samples", why=_PICTURES,
    ),
    Option(
        "sample_prompts", "callbacks.samples.prompts", "Prompts of the pictures: a file.",
        kind=coerce.text, by="samples", why=_PICTURES,
    ),
    Option(
        "save_every_n_steps", "callbacks.export.every_n_steps", "Saves the adapter every N optimizer steps.",
        by="saving",
    ),
    Option(
        "save_last_n_epochs", "callbacks.export.keep_last", "Keeps that many of the files saved during training.",
        by="saving", why=_INTERVALS,
    ),
    Option(
        "save_last_n_steps", "callbacks.export.keep_last", "Keeps the files of the last N steps.",
        by="saving", why=_INTERVALS,
    ),
    Option(
        "save_n_epoch_ratio", "callbacks.export.every_n_epochs", "Saves that many files at equal intervals.",
        by="saving",
    ),
    Option(
        "save_state_on_train_end", "callbacks.state.enabled", "Saves the training state at the end.",
        kind=coerce.flag, by="saving",
    ),
    Option("scale_v_pred_loss_like_noise_pred", "objective/weighting=scaled_v", "Scales the loss of a v-prediction."),
    Option(
        "scale_weight_norms", "adapter.max_norm", "Upper bound of the norm of each layer's change.",
        ss=True, only="scale_weight_norms",
    ),
    Option("sdpa", "model.attention=sdpa", "torch's attention.", by="model"),
    Option(
        "attn_mode", "model.attention", "Attention, in sd-scripts' scripts for transformers.",
        kind=coerce.words("torch sdpa xformers flash sageattn"), by="model",
    ),
    Option("sdxl", "model=sdxl", "The file is for SDXL (`sdxl`, `use_sdxl`, `sdxl_train_network.py`).", by="model"),
    Option("secondary_separator", "data.captions.secondary_separator", "Separator inside groups of tags."),
    *(
        Option(name, key, what, kind=coerce.path, only=f"model={families}")
        for name, key, families, what in (
            ("dit", "model.base", "zimage|zimage_turbo", "The transformer, in musubi-tuner."),
            ("qwen3", "model.text_encoder", "anima", "Anima's text encoder, Qwen3-0.6B: a file or a folder."),
            ("t5_tokenizer_path", "model.t5_tokenizer", "anima", "Folder of Anima's T5 tokenizer."),
            ("text_encoder", "model.text_encoder", "zimage|zimage_turbo", "The language model, in musubi-tuner."),
        )
    ),
    *(
        Option(f"{name}_max_token_length", "model.max_token_length", f"Maximum number of {title}'s tokens.",
               kind=coerce.whole, by="model")
        for name, title in (("qwen3", "Qwen3"), ("t5", "T5"))
    ),
    Option("sigmoid_scale", "objective.timesteps.std", "With timestep_sampling sigmoid or shift.", by="timesteps"),
    Option(
        "timestep_sampling", "objective/timesteps=…", "How timesteps of a flow are drawn.",
        kind=coerce.name, by="timesteps",
    ),
    Option(
        "token_warmup_min", "data.captions.token_warmup_min",
        "Number of tags at the start of the token warm-up.",
    ),
    Option(
        "token_warmup_step", "data.captions.token_warmup_steps",
        "Optimizer steps until all tags are used; below 1 a share of `max_train_steps`.",
        kind=coerce.number, by="token_warmup",
    ),
    Option("use_lion_optimizer", "optimizer=lion", "An old option for Lion.", by="optimizer"),
    Option(
        "v_pred_like_loss", "objective/weighting=v_like", "Adds a share of the loss, weighted as in v-prediction.",
        holder="objective.weighting.v_like.strength",
    ),
    Option(
        "vae_custom_scale", "model.latent_scale", "Scale of latents, in sd-scripts' forks.",
        only="model=sdxl|sdxl_flow",
    ),
    Option(
        "vae_custom_shift", "model.latent_shift", "Shift of latents, in sd-scripts' forks.",
        only="model=sdxl|sdxl_flow",
    ),
    Option(
        "validation_split", "data.validation.split",
        "Share of the images that is held out as validation set.", ss=True,
    ),
    Option(
        "wandb_run_name", "logger.wandb.name", "The run's name at Weights & Biases.",
        kind=coerce.text, only="logger=wandb wandb_run_name", why="has no effect without Weights & Biases",
    ),
    Option("weighted_captions", "model.emphasis", "Weighted words: `(tag:1.2)`."),
    Option(
        "weighting_scheme", "objective/weighting=…", "Weights of a flow's timesteps, or how often they are drawn.",
        kind=coerce.words("none uniform sigma_sqrt logit_normal mode cosmap"),
        by="timesteps",
    ),
    Option(
        "zero_terminal_snr", "model.zero_terminal_snr", "The noise schedule ends in pure noise.",
        only="zero_terminal_snr",
    ),
)
"""Further options of sd-scripts and its GUI that are supported."""

NETWORK_ARGS = (
    Option(
        "algo", "adapter=…", "Algorithm of LyCORIS: lora, locon, loha, lokr, diag-oft, boft, ia3.", kind=coerce.name,
        by="network",
    ),
    Option(
        "block_alphas", "targets.blocks.alpha", "An alpha for each block of the UNet.",
        kind=coerce.numbers, by="blocks",
    ),
    Option("block_dims", "targets.blocks.rank", "A rank for each block of the UNet.", kind=coerce.wholes, by="blocks"),
    Option(
        "block_lr_zero_threshold", "targets.blocks.lr_factor", "Factors up to this are set to 0.",
        kind=coerce.number, by="blocks",
    ),
    Option("conv_alpha", "adapter.conv_alpha", "Alpha of k×k convolutions.", by="network"),
    Option(
        "conv_block_alphas", "targets.blocks.conv_alpha", "Alpha of k×k convolutions for each block.",
        kind=coerce.numbers, by="blocks",
    ),
    Option(
        "conv_block_dims", "targets.blocks.conv_rank", "Rank of k×k convolutions for each block.",
        kind=coerce.wholes, by="blocks",
    ),
    Option("conv_dim", "adapter.conv_rank", "Rank of k×k convolutions.", by="network"),
    Option(
        "constraint", "adapter.constraint", "Upper bound on the norm of OFT's rotations, for each output.",
        kind=coerce.positive_or_none, only="adapter=oft|boft", why="has no effect without OFT",
    ),
    Option("decompose_both", "adapter.decompose_both", "Gives LoKr's small matrix a low rank, too."),
    Option("dora_wd", "adapter=dora", "Learns magnitude and direction of weights separately (DoRA).", by="network"),
    Option(
        "down_lr_weight", "targets.blocks.lr_factor", "Learning-rate factors of the UNet's input blocks.",
        kind=coerce.numbers, by="blocks",
    ),
    Option("dropout", "adapter.dropout", "Dropout of elements inside the adapter."),
    Option("factor", "adapter.factor", "Size of LoKr's small matrix.", by="network"),
    Option("full_matrix", "adapter.full_matrix", "Keeps LoKr's large matrix full instead of low-rank."),
    Option(
        "loraplus_lr_ratio", "targets.loraplus_ratio", "LoRA+: learning-rate ratio of the tensors that start at 0.",
        by="loraplus",
    ),
    Option(
        "loraplus_text_encoder_lr_ratio", "targets.loraplus_ratio", "The same, for the text encoders.",
        by="loraplus",
    ),
    Option("loraplus_unet_lr_ratio", "targets.loraplus_ratio", "The same, for the UNet.", by="loraplus"),
    Option(
        "mid_lr_weight", "targets.blocks.lr_factor", "Learning-rate factor of the middle block.",
        kind=coerce.numbers, by="blocks",
    ),
    Option("module_dropout", "adapter.module_dropout", "Dropout of the adapters of whole layers."),
    Option("preset", "targets.…", "LyCORIS' preset of layers.", kind=coerce.name, by="network"),
    Option("rank_dropout", "adapter.rank_dropout", "Dropout of rank components."),
    Option(
        "rescaled", "adapter.rescaled", "OFT also trains a factor for each output.", only="adapter=oft|boft",
        why="has no effect without OFT",
    ),
    Option("rs_lora", "adapter.rs_lora", "Scales by alpha / √rank."),
    Option(
        "train_on_input", "adapter.on_input", "(IA)³ scales inputs rather than outputs.", only="adapter=ia3",
        why="has no effect without (IA)³",
    ),
    Option(
        "up_lr_weight", "targets.blocks.lr_factor", "Learning-rate factors of the UNet's output blocks.",
        kind=coerce.numbers, by="blocks",
    ),
    Option(
        "wd_on_output", "adapter.magnitude", "DoRA magnitudes per output instead of per input.",
        kind=coerce.Either("output", "input"), only="adapter=dora", why="has no effect without DoRA",
    ),
    *(
        Option(name, "targets.patterns", what, kind=kind, by="named_layers", why=_NAMED)
        for name, what, kind in (
            ("exclude_patterns", "Layers of Anima without an adapter, by regular expressions on names.", expressions),
            ("include_patterns", "Layers that have one in spite of these and of the usual ones.", expressions),
            ("network_reg_dims", "Ranks of layers by such expressions.", partial(by_expression, kind=coerce.whole)),
            ("network_reg_lrs", "Learning rates by them.", partial(by_expression, kind=coerce.number)),
        )
    ),
    Option(
        "train_llm_adapter", "targets.text_conditioner", "Adapters on Anima's text conditioner.",
        kind=coerce.flag, only="model=anima",
    ),
    Option("block_size", "", "DyLoRA is not supported"),
    Option("bypass_mode", "", "changes how LyCORIS computes, not what it trains"),
    Option("rank_dropout_scale", "", "rank dropout is always rescaled to keep the mean"),
    Option("train_norm", "", "training normalisation layers is not supported"),
    Option("unbalanced_factorization", "", "LoKr always factorises as evenly as possible"),
    Option("use_conv_cp", "", "Tucker decomposition of convolutions can be read, but not trained"),
    Option("use_cp", "", "Tucker decomposition of convolutions can be read, but not trained"),
    Option("use_scalar", "", "a trained scalar per adapter is not supported"),
    Option("use_tucker", "", "Tucker decomposition of convolutions can be read, but not trained"),
)
"""Arguments of sd-scripts' and LyCORIS' networks, given by name in `network_args`."""
# fmt: on

_NO_COUNTERPART = {
    "options of accelerate: set trainer.devices and trainer.strategy": (
        "num_processes num_machines multi_gpu gpu_ids main_process_port num_cpu_threads_per_process "
        "extra_accelerate_launch_args ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph"
    ),
    "DeepSpeed is not supported: set trainer.strategy": (
        "deepspeed zero_stage offload_optimizer_device offload_optimizer_nvme_path offload_param_device "
        "offload_param_nvme_path zero3_init_flag zero3_save_16bit_model fp16_master_weights_and_gradients"
    ),
    "speed.compile=true compiles what is worth it": (
        "torch_compile dynamo_backend dynamo_mode dynamo_use_dynamic dynamo_use_fullgraph dynamo_fullgraph "
        "dynamo_dynamic compile compile_backend compile_mode compile_dynamic compile_fullgraph compile_cache_size_limit"
    ),
    "speed=auto chooses what is fast": "cuda_allow_tf32 cuda_cudnn_benchmark",
    "model.attention=auto uses torch's own": "flash_attn sage_attn flash3 use_32bit_attention",
    "timesteps are always drawn one by one, and stretched to their range": (
        "num_timestep_buckets preserve_distribution_shape"
    ),
    "to see how timesteps are drawn run loralab doctor": "show_timesteps",
    "uploading to the Hub is not supported": (
        "huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token "
        "huggingface_repo_visibility save_state_to_huggingface resume_from_huggingface async_upload"
    ),
    "adapters are always trained in fp32; for the frozen base set model.dtype or model.quantize": "full_fp16 full_bf16",
    "model.quantize holds the text encoder in as many bits as the rest": "fp8_llm",
    "the VAE always runs in fp32": "no_half_vae vae_dtype",
    "changes memory use, not what is trained": (
        "lowram lowvram highvram vae_batch_size mem_eff_save cpu_offload_checkpointing "
        "gradient_checkpointing_cpu_offload use_pinned_memory_for_block_swap img_in_txt_in_offloading "
        "disable_numpy_memmap "
        "fused_backward_pass fused_optimizer_groups blockwise_fused_optimizers "
        "disable_mmap_load_safetensors skip_cache_check split_attn vae_chunk_size vae_disable_cache "
        "unsloth_offload_checkpointing"
    ),
    "data.cache.text caches text-encoder outputs; location and batch size cannot be set": (
        "cache_text_encoder_outputs_to_disk text_encoder_batch_size"
    ),
    "the text conditioner is that of the base model": "llm_adapter_path",
    "rates of full fine-tuning, without effect on adapters: set targets.patterns": (
        "self_attn_lr cross_attn_lr mlp_lr mod_lr llm_adapter_lr"
    ),
    "metadata of images is always cached": "cache_info",
    "images are always resized by area when shrinking and Lanczos otherwise": "resize_interpolation",
    "face-aware cropping is not supported": "face_crop_aug_range",
    "captions are always padded like in sd-scripts": "no_token_padding",
    "rank and alpha are always those of the file adapter.weights": "dim_from_weights",
    "to merge adapters before training run loralab merge": "base_weights base_weights_multiplier",
    "text encoders are trained for the whole run": "stop_text_encoder_training stop_text_encoder_training_pct",
    "the tokenizer is that of the base model, or model.tokenizer": "tokenizer_cache_dir",
    "model.attention=auto uses torch's memory-efficient attention": "mem_eff_attn",
    "schedules with a final decay phase are not supported": "lr_decay_steps",
    "runs are resumed exactly where they stopped with resume=auto": (
        "initial_epoch initial_step skip_until_initial_step"
    ),
    "set callbacks.state.keep_last for training states": "save_last_n_epochs_state save_last_n_steps_state",
    "pictures are always drawn with the model's own sampler": "sample_sampler",
    "this kind of logging is not supported": (
        "log_prefix log_tracker_name log_tracker_config log_config wandb_api_key console_log_level console_log_file "
        "console_log_simple use_wandb"
    ),
    "this metadata is not written": (
        "metadata_title metadata_author metadata_description metadata_license metadata_tags metadata_usage_hint "
        "metadata_thumbnail metadata_merged_from metadata_trigger_phrase metadata_preprocessor "
        "metadata_is_negative_embedding metadata_reso metadata_arch"
    ),
    "validation is configured by callbacks.validation": "validation_seed max_validation_steps",
    "custom dataset classes are not supported": "dataset_class",
    "to inspect the data run loralab doctor": "debug_dataset",
    "the path of a settings file": "config_file output_config save_toml save_toml_location save_json_name",
    "to train several files set settings.run_folder": "list_of_json_to_run",
    "tag counts are written beside the adapter": "tag_file_location",
    "scaling of adapters during training is not supported": "network_multiplier",
    "an option of the GUI, not of the training": (
        "model_list training_preset save_as_bool save_as headless print_only use_shell conv_dims conv_alphas"
    ),
    "optimal transport between noise and images of a batch is not supported": "flow_use_ot",
    "contrastive flow matching is not supported": "contrastive_flow_matching cfm_lambda",
    "reflection padding of the VAE is not supported": "vae_reflection_padding",
    "found in the base model and its VAE": "vae_type latent_channels",
    "for another model family": (
        "ae clip_l clip_g t5xxl gemma2 t5xxl_device t5xxl_dtype t5xxl_max_token_length clip_l_dropout_rate "
        "clip_g_dropout_rate t5_dropout_rate model_prediction_type "
        "guidance_scale split_mode split_qkv train_blocks apply_t5_attn_mask apply_lg_attn_mask double_blocks_to_swap "
        "single_blocks_to_swap enable_all_linear in_dims img_attn_dim img_mlp_dim img_mod_dim single_dim "
        "single_mod_dim "
        "txt_attn_dim txt_mlp_dim txt_mod_dim train_double_block_indices train_single_block_indices train_t5xxl "
        "training_shift pos_emb_random_crop_rate "
        "enable_scaled_pos_embed "
        "save_clip save_t5xxl disable_mmap use_flash_attn use_sage_attn system_prompt cfg_trunc renorm_cfg"
    ),
}

NO_COUNTERPART = (
    *(Option(name, "", why) for why, names in _NO_COUNTERPART.items() for name in names.split()),
    *(
        Option(name, "", "validation is configured by callbacks.validation", ss=True, holder=f"callbacks.{key}")
        for name, key in (
            ("validate_every_n_steps", "validation.every_n_steps"),
            ("validate_every_n_epochs", "validation.every_n_epochs"),
        )
    ),
)
"""Options of other trainers that are not supported, with the reason."""

UNUSED = {
    "adaptive_noise_scale": None,
    "face_crop_aug_range": None,
    "fp8_base": False,
    "fp8_base_unet": False,
    "full_fp16": False,
    "gradient_checkpointing": False,
    "huber_c": 0.1,
    "huber_scale": 1.0,
    "huber_schedule": "snr",
    "ip_noise_gamma_random_strength": False,
    "lowram": False,
    "max_grad_norm": 0.0,
    "max_validation_steps": None,
    "multires_noise_discount": 0.3,
    "noise_offset_random_strength": False,
    "resize_interpolation": None,
    "validation_seed": None,
    "validation_split": 0.0,
}
"""What sd-scripts writes into the metadata of a file for options that are not used."""

OTHER_FAMILIES = ("flux", "flux1", "sd3", "lumina", "hunyuan", "hunyuan_image", "chroma", "qwen")
"""Prefixes, before an underscore, of options for other model families."""

OPTIONS = {
    option.name: option
    for option in (
        *PARAMETERS,
        *(replace(option, sd_scripts=f"network_args.{option.name}") for option in NETWORK_ARGS),
        *FURTHER,
        *NO_COUNTERPART,
    )
}
"""Every known option by name."""
