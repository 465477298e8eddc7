"""The one table of parameters: 65 by number, then what else sd-scripts knows, then what has no counterpart here.

docs/parameters.md is written from it, and the importer of settings files reads it.
"""

from __future__ import annotations

from dataclasses import dataclass

from loralab.settings import kinds
from loralab.settings.kinds import Kind


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of other trainers.

    A `kind` says that the value is taken over as it is, to `key`. Without one the option has no counterpart (no key
    either), or becomes a setting together with others, in rules/.
    """

    sd_scripts: str
    """sd-scripts' name, "" where it has none."""
    key: str
    """As it is set here, "" where it cannot be."""
    what: str
    """What it does, or why it has no counterpart."""
    kind: Kind | None = None
    number: int = 0
    old: str = ""
    """Its name in old JSON files."""
    section: str = ""

    @property
    def name(self) -> str:
        """Its one name here: sd-scripts', or where it has none the old one."""
        return self.sd_scripts or self.old


WHERE, CAPTIONS, IMAGES = "Where things are", "Captions", "Images, buckets, caches"
NETWORK, OPTIMISATION, SAVING = "The network", "Optimisation", "Saving"
SECTIONS = (WHERE, CAPTIONS, IMAGES, NETWORK, OPTIMISATION, SAVING)

FORMATS = kinds.one_of(safetensors="safetensors", ckpt="ckpt", pt="pt", bin="bin")


def _row(section: str, number: int, old: str, sd_scripts: str, key: str, kind: Kind | None, what: str) -> Option:
    return Option(sd_scripts, key, what, kind, number, old, section)


# fmt: off
PARAMETERS = (
    _row(
        WHERE, 1, "base_model", "pretrained_model_name_or_path", "model.base", kinds.path,
        "Base model: one `.safetensors` or `.ckpt` file in the original layout, a diffusers folder, or a hub id. A "
        "file that is not there, is no checkpoint, or is of another family than `model=` says: an error before "
        "anything heavy loads.",
    ),
    _row(
        WHERE, 2, "img_folder", "train_data_dir", "data.folder", kinds.path,
        "Training images. Sub-folders `N_name` are repeated N times and `name` is the caption of images without a "
        "caption file; other images count once. Several folders with their own settings: `data.folders`.",
    ),
    _row(
        WHERE, 3, "output_folder", "output_dir", "output.folder", kinds.path,
        "Where the adapter files go; default: the run's own folder. Created if missing; not writable: an error "
        "before training.",
    ),
    _row(
        WHERE, 4, "change_output_name", "output_name", "output.name", kinds.text,
        "File name of the adapter, without extension; epochs and steps are added as `-000005` and `-step00000500`, "
        "the last file has the plain name.",
    ),
    _row(
        WHERE, 5, "save_json_folder", "", "settings.save_folder", kinds.path,
        "Writes the complete settings of the run as a JSON under the old names (with a `loralab` section for what "
        "these cannot say), loadable again by the next one.",
    ),
    _row(
        WHERE, 6, "load_json_path", "", "settings.load", kinds.path,
        "Starts from a settings file: see [settings files](settings.md). Order: the defaults of conf/ < the file < "
        "the command line.",
    ),
    _row(
        WHERE, 7, "json_load_skip_list", "", "settings.skip", None,
        "Names not taken from that file. A name that the file does not have: a warning.",
    ),
    _row(
        WHERE, 8, "multi_run_folder", "", "settings.run_folder", kinds.path,
        "Trains one run for each settings file in the folder, in name order, in `run1/`, `run2/` …; a failed one is "
        "reported and the rest go on; a finished one is not run again; nothing is overwritten.",
    ),
    _row(
        WHERE, 9, "save_json_only", "", "settings.save_only", kinds.flag,
        "Writes the settings file and stops; no model is loaded.",
    ),
    _row(
        WHERE, 61, "log_dir", "logging_dir", "logger.tensorboard.save_dir", kinds.path,
        "Where logs go; default: the run's own folder. A folder with logs in it is never overwritten: a new version "
        "beside it.",
    ),
    _row(
        CAPTIONS, 50, "caption_extension", "caption_extension", "data.captions.extension", kinds.extension,
        "Extension of caption files, default `.txt`. With or without the dot.",
    ),
    _row(
        CAPTIONS, 10, "caption_dropout_rate", "caption_dropout_rate", "data.captions.dropout_rate", kinds.number,
        "Probability, per sample and epoch, that the whole caption is replaced by the empty one.",
    ),
    _row(
        CAPTIONS, 11, "caption_dropout_every_n_epochs", "caption_dropout_every_n_epochs",
        "data.captions.dropout_every_n_epochs", kinds.whole,
        "In epochs n, 2n, 3n … (counted from 1) all captions are empty. 0 = never.",
    ),
    _row(
        CAPTIONS, 12, "caption_tag_dropout_rate", "caption_tag_dropout_rate", "data.captions.tag_dropout_rate",
        kinds.number,
        "Probability that each tag (beyond the kept ones) is left out, per sample and epoch.",
    ),
    _row(
        CAPTIONS, 27, "shuffle_captions", "shuffle_caption", "data.captions.shuffle", kinds.flag,
        "Shuffles the tags (split at `data.captions.separator`, default `,`) anew for each sample and epoch.",
    ),
    _row(
        CAPTIONS, 28, "keep_tokens", "keep_tokens", "data.captions.keep_tokens", kinds.whole,
        "The first N tags stay in front and are never dropped. With `data.captions.keep_tokens_separator` (say "
        "`|||`) the part before it is kept; a second one marks a kept tail.",
    ),
    _row(
        CAPTIONS, 30, "tag_occurrence_txt_file", "", "callbacks.tag_occurrence.enabled", kinds.flag,
        "Writes a text file with how often each tag occurs in the data (repeats counted), beside the adapter. "
        "`objective.tag_weighting` weighs a sample's loss by the rarity of its tags (default off).",
    ),
    _row(
        CAPTIONS, 31, "sort_tag_occurrence_alphabetically", "", "callbacks.tag_occurrence.sort", None,
        "`count` (default) or `alphabetical`.",
    ),
    _row(
        CAPTIONS, 51, "max_clip_token_length", "max_token_length", "model.max_token_length", kinds.whole,
        "75, 150 or 225 tokens, encoded in chunks of 75, each with its own begin and end token. Longer captions: "
        "`data.captions.overlong: truncate` (default), `skip` or `error`, counted in one line.",
    ),
    _row(
        IMAGES, 32, "train_resolution", "resolution", "data.resolution", kinds.size,
        "Pixel budget: a number (square) or `[w, h]`. A list of several resolutions trains on all of them.",
    ),
    _row(
        IMAGES, 52, "buckets", "enable_bucket", "data.buckets.enabled", kinds.flag,
        "Aspect-ratio buckets; off = resize the short side and crop the middle to `data.resolution`. "
        "`data.captions.token_buckets` (default off) batches captions of one chunk apart from longer ones.",
    ),
    _row(
        IMAGES, 33, "min_bucket_resolution", "min_bucket_reso", "data.buckets.min_resolution", None,
        "Shortest side a bucket may have.",
    ),
    _row(
        IMAGES, 34, "max_bucket_resolution", "max_bucket_reso", "data.buckets.max_resolution", None,
        "Longest side a bucket may have.",
    ),
    _row(
        IMAGES, 62, "bucket_reso_steps", "bucket_reso_steps", "data.buckets.step", kinds.whole,
        "Bucket sides are multiples of this (a multiple of 8 for SD 1/2, of 32 for SDXL; 64 by default); anything "
        "else: an error.",
    ),
    _row(
        IMAGES, 63, "bucket_no_upscale", "bucket_no_upscale", "data.buckets.no_upscale", kinds.flag,
        "Images are never enlarged; small ones get a bucket of their own size.",
    ),
    _row(
        IMAGES, 41, "reg_img_folder", "reg_data_dir", "data.reg_folder", kinds.path,
        "Regularisation (prior-preservation) images, laid out like `data.folder`. Each epoch takes as many of them "
        "as there are training images (repeats counted), in turn.",
    ),
    _row(
        IMAGES, 56, "color_aug", "color_aug", "data.augment.color", kinds.flag,
        "Random hue, saturation and brightness. Contradicts cached latents: an error that says so.",
    ),
    _row(
        IMAGES, 57, "flip_aug", "flip_aug", "data.augment.flip", kinds.flag,
        "Mirrors half of the samples; works with cached latents (both sides are cached).",
    ),
    _row(
        IMAGES, 58, "random_crop", "random_crop", "data.augment.random_crop", kinds.flag,
        "Random instead of centred crop. Contradicts cached latents, unless `data.cache.variants` is above 1: that "
        "many crops are cached.",
    ),
    _row(
        IMAGES, 55, "cache_latents", "cache_latents", "data.cache.latents", None,
        "`none`, `memory` or `disk`. An edited image, another VAE or another resolution is noticed, and only what is"
        " missing is encoded.",
    ),
    _row(
        IMAGES, 22, "num_workers", "max_data_loader_n_workers", "data.num_workers", kinds.whole,
        "Loader processes. The result does not depend on it.",
    ),
    _row(
        IMAGES, 23, "persistent_workers", "persistent_data_loader_workers", "data.persistent_workers", kinds.flag,
        "Keeps them between epochs.",
    ),
    _row(
        IMAGES, 24, "batch_size", "train_batch_size", "data.batch_size", kinds.whole,
        "Samples in a batch (per device).",
    ),
    _row(NETWORK, 13, "net_dim", "network_dim", "adapter.rank", None, "Rank."),
    _row(
        NETWORK, 14, "alpha", "network_alpha", "adapter.alpha", None,
        "The adapter's output is scaled by alpha / rank. Stored in the file.",
    ),
    _row(
        NETWORK, 35, "lora_model_for_resume", "network_weights", "adapter.weights", kinds.path,
        "Starts from an adapter file (weights only; the optimizer starts fresh). Rank and alpha are the file's.",
    ),
    _row(
        NETWORK, 39, "unet_only", "network_train_unet_only", "targets=unet_only", None,
        "Only the UNet's adapters are trained (and exist in the file).",
    ),
    _row(
        NETWORK, 40, "text_only", "network_train_text_encoder_only", "targets=text_encoder_only", None,
        "Only the text encoder's. Both: an error.",
    ),
    _row(
        NETWORK, 42, "clip_skip", "clip_skip", "model.clip_skip", None,
        "The text encoder's hidden state this many layers from the end (1 = last), then the final layer norm. SDXL "
        "always uses its second-last layers, without that norm.",
    ),
    _row(NETWORK, 59, "vae", "vae", "model.vae", kinds.path, "Another VAE: a file, folder or hub id."),
    _row(NETWORK, 64, "v2", "v2", "model=sd2", None, "Stable Diffusion 2.x."),
    _row(
        NETWORK, 65, "v_parametrization", "v_parameterization", "model.prediction_type", None,
        "`epsilon` or `v_prediction` (`model=sd2_v`). Detected where the checkpoint says; a contradiction warns.",
    ),
    _row(OPTIMISATION, 19, "learning_rate", "learning_rate", "optimizer.lr", None, "Default 1e-4."),
    _row(
        OPTIMISATION, 21, "unet_lr", "unet_lr", "targets.unet_lr", None,
        "For the UNet's adapters; null = `optimizer.lr`; 0 = frozen.",
    ),
    _row(
        OPTIMISATION, 20, "text_encoder_lr", "text_encoder_lr", "targets.text_encoder_lr", None,
        "For the text encoder's; null = `optimizer.lr`; 0 = frozen.",
    ),
    _row(
        OPTIMISATION, 54, "use_8bit_adam", "use_8bit_adam", "optimizer=adam8bit", None,
        "bitsandbytes' 8-bit Adam (`adamw8bit` beside it). Works on a CPU too. It keeps tensors under 4096 elements "
        "in fp32: the run says how many are 8-bit.",
    ),
    _row(
        OPTIMISATION, 15, "scheduler", "lr_scheduler", "scheduler=…", None,
        "constant, constant_with_warmup, linear, cosine, cosine_with_restarts, polynomial, step, plateau. Counted in"
        " optimizer steps.",
    ),
    _row(
        OPTIMISATION, 16, "cosine_restarts", "lr_scheduler_num_cycles", "scheduler.num_cycles", None,
        "Number of hard restarts of the cosine.",
    ),
    _row(
        OPTIMISATION, 17, "scheduler_power", "lr_scheduler_power", "scheduler.power", None,
        "Power of the polynomial.",
    ),
    _row(
        OPTIMISATION, 18, "warmup_lr_ratio", "", "scheduler.warmup_ratio", None,
        "Share of the optimizer steps spent warming up from 0 (or `scheduler.warmup_steps`, a number: "
        "`lr_warmup_steps`).",
    ),
    _row(OPTIMISATION, 25, "num_epochs", "max_train_epochs", "trainer.max_epochs", None, "Passes over the data."),
    _row(
        OPTIMISATION, 29, "max_steps", "max_train_steps", "trainer.max_steps", None,
        "Optimizer steps; where set, it decides and epochs do not (in sd-scripts' own files it is the other way "
        "round, and the importer minds it). Giving one of the two on the command line clears the other that a file "
        "set. Zero is an error.",
    ),
    _row(
        OPTIMISATION, 46, "gradient_acc_steps", "gradient_accumulation_steps", "trainer.accumulate_grad_batches",
        kinds.whole,
        "Batches per optimizer step. Batches of different buckets may share a step.",
    ),
    _row(
        OPTIMISATION, 45, "gradient_checkpointing", "gradient_checkpointing", "model.gradient_checkpointing",
        kinds.flag,
        "Recomputes activations in the backward pass: less memory, same gradients.",
    ),
    _row(
        OPTIMISATION, 47, "mixed_precision", "mixed_precision", "trainer.precision", kinds.precision,
        "`32-true`, `16-mixed`, `bf16-mixed`. Old values: no, fp16, bf16 (or a boolean). `16-mixed` on a CPU: an "
        "error with the remedy.",
    ),
    _row(
        OPTIMISATION, 53, "xformers", "xformers", "model.attention", None,
        "`auto` (what is fastest on the device), `sdpa`, `xformers`, `eager`. Where xformers cannot run: an error "
        "when asked for by key, sdpa with a warning when a settings file asked.",
    ),
    _row(
        OPTIMISATION, 44, "prior_loss_weight", "prior_loss_weight", "objective.prior_loss_weight", kinds.number,
        "Weight of the loss of regularisation images.",
    ),
    _row(
        OPTIMISATION, 43, "test_seed", "seed", "seed", kinds.whole,
        "Seeds everything; the same seed and settings give the same file, byte for byte, on the same machine.",
    ),
    _row(
        SAVING, 26, "save_every_n_epochs", "save_every_n_epochs", "callbacks.export.every_n_epochs", None,
        "Saves the adapter every N epochs (`every_n_steps` beside it, `keep_last` to limit).",
    ),
    _row(
        SAVING, 49, "save_as", "save_model_as", "output.format", FORMATS,
        "`safetensors`, `ckpt`, `pt`, `bin`; and `output.layout: kohya` (default) or `diffusers`.",
    ),
    _row(
        SAVING, 48, "save_precision", "save_precision", "output.precision", kinds.save_precision,
        "`fp16` (default), `bf16`, `fp32`.",
    ),
    _row(
        SAVING, 60, "no_meta", "no_metadata", "output.metadata=false", None,
        "Leaves out the training metadata (`ss_*`, `modelspec.*`) otherwise stored in a safetensors file.",
    ),
    _row(
        SAVING, 38, "training_comment", "training_comment", "output.comment", kinds.text,
        "Stored in the metadata (`ss_training_comment`).",
    ),
    _row(
        SAVING, 36, "save_state", "save_state", "callbacks.state.enabled", None,
        "Saves the complete training state with every saved adapter, and at the end or when interrupted.",
    ),
    _row(
        SAVING, 37, "load_previous_save_state", "resume", "resume", kinds.path,
        "Continues from such a state exactly where it stopped, in the middle of an epoch too. A path, or `auto`: the"
        " newest valid state with this run's signature under the outputs root (`resume_root`).",
    ),
)

FURTHER = (
    Option(
        "adaptive_noise_scale", "objective.noise.offset.adaptive",
        "Noise offset that follows the picture's brightness.",
    ),
    Option("additional_parameters", "", "Options of its own, read like the others; they come first."),
    Option("alpha_mask", "data.alpha_mask", "Transparency weighs the loss of each pixel.", kinds.flag),
    Option("cache_latents_to_disk", "data.cache.latents=disk", "Keeps cached latents on disk."),
    Option("cache_text_encoder_outputs", "data.cache.text", "Keeps what the text encoders make of captions."),
    Option("caption_prefix", "data.captions.prefix", "In front of every caption.", kinds.text),
    Option("caption_separator", "data.captions.separator", "Between tags.", kinds.text),
    Option("caption_suffix", "data.captions.suffix", "At the end of every caption.", kinds.text),
    Option("conditioning_data_dir", "data.mask_folder", "Masks of the loss, in a folder beside the images."),
    Option("dataset_config", "data.folders", "A dataset configuration of its own, read too."),
    Option("dataset_repeats", "data.folders", "Repeats of the images of `in_json`."),
    Option("debiased_estimation_loss", "objective/weighting=debiased", "Noisy timesteps count more."),
    Option("enable_wildcard", "data.captions.wildcards", "`{a|b}` and lines of a caption are drawn.", kinds.flag),
    Option("epoch", "trainer.max_epochs", "The GUI's epochs, where neither maximum is set."),
    Option("height_resolution", "data.resolution", "The height, where it is not the width of `train_resolution`."),
    Option("huber_c", "objective.loss.c", "Threshold of the Huber and the smooth L1 loss."),
    Option("huber_scale", "objective.loss.scale", "Scale of that threshold."),
    Option("huber_schedule", "objective.loss.schedule", "How that threshold follows the timestep."),
    Option("in_json", "data.metadata", "One metadata file with the captions.", kinds.path),
    Option("ip_noise_gamma", "objective.noise.input_perturbation.strength", "Input perturbation."),
    Option(
        "ip_noise_gamma_random_strength", "objective.noise.input_perturbation.random_strength",
        "Drawn up to that strength.",
    ),
    Option(
        "keep_tokens_separator", "data.captions.keep_tokens_separator",
        "Marks the kept part of a caption.", kinds.text,
    ),
    Option("locon", "adapter=locon", "LoCon, in the first versions of the LoRA Easy Training scripts that had it."),
    Option("log_with", "logger=…", "tensorboard, wandb, or all."),
    Option("loss_type", "objective/loss=…", "l2, l1, huber, smooth_l1."),
    Option("lr_scheduler_args", "scheduler.…", "Further arguments of the schedule."),
    Option("lr_scheduler_min_lr_ratio", "scheduler.end_ratio", "Share of the learning rate at the end."),
    Option("lr_scheduler_timescale", "scheduler.timescale", "Of inverse_sqrt."),
    Option("lr_scheduler_type", "scheduler=…", "A schedule by its class: StepLR and ReduceLROnPlateau."),
    Option("lr_warmup", "scheduler.warmup_ratio", "The GUI's warm-up, in percent of the steps."),
    Option("lr_warmup_steps", "scheduler.warmup_steps", "Warm-up in optimizer steps; below 1 a share of them."),
    Option("lyco", "adapter=…", "LyCORIS, in the LoRA Easy Training scripts: `algo` among the arguments chooses."),
    Option("masked_loss", "data.mask_folder", "Weighs the loss by masks."),
    Option(
        "max_grad_norm", "trainer.gradient_clip_val",
        "Clips the gradient norm of all adapters together.", kinds.number,
    ),
    Option("max_timestep", "objective.timesteps.high", "The timestep after the last that is trained."),
    Option("min_snr_gamma", "objective/weighting=min_snr", "Clean timesteps count less."),
    Option("min_timestep", "objective.timesteps.low", "The first timestep that is trained."),
    Option("multires_noise_discount", "objective.noise.multires.discount", "Weight of each coarser noise."),
    Option("multires_noise_iterations", "objective/noise=multires", "Noise of several resolutions."),
    Option("network_args", "adapter.…", "Further arguments of the network."),
    Option("network_dropout", "adapter.dropout", "Leaves out elements inside the adapter."),
    Option("network_module", "adapter=…", "networks.lora, networks.loha, networks.lokr, lycoris.kohya."),
    Option("noise_offset", "objective/noise=offset", "Noise with a random constant in each channel."),
    Option("noise_offset_random_strength", "objective.noise.offset.random_strength", "Drawn up to that strength."),
    Option("noise_offset_type", "objective/noise=…", "Which of noise offset and multires noise counts."),
    Option("optimizer_args", "optimizer.…", "Further arguments of the optimizer."),
    Option("optimizer_type", "optimizer=…", "AdamW, AdamW8bit, Lion, Lion8bit, Prodigy, DAdaptAdam, Adafactor …"),
    Option("sample_at_first", "callbacks.samples.before", "Pictures before the first step."),
    Option("sample_every_n_epochs", "callbacks.samples.every_n_epochs", "Pictures every N epochs."),
    Option("sample_every_n_steps", "callbacks.samples.every_n_steps", "Pictures every N optimizer steps."),
    Option("sample_prompts", "callbacks.samples.prompts", "What they show: a text file."),
    Option("save_every_n_steps", "callbacks.export.every_n_steps", "Saves the adapter every N optimizer steps."),
    Option("save_last_n_epochs", "callbacks.export.keep_last", "Keeps that many of the files saved on the way."),
    Option("save_last_n_steps", "callbacks.export.keep_last", "Keeps those of the last N steps."),
    Option("save_n_epoch_ratio", "callbacks.export.every_n_epochs", "Saves that many files, evenly spread."),
    Option("save_state_on_train_end", "callbacks.state.enabled", "Saves the training state at the end."),
    Option("scale_v_pred_loss_like_noise_pred", "objective/weighting=scaled_v", "Scales the loss of a v-prediction."),
    Option("scale_weight_norms", "adapter.max_norm", "Upper bound of the norm of each layer's change."),
    Option("sdpa", "model.attention=sdpa", "torch's attention."),
    Option("sdxl", "model=sdxl", "The file is of a script for SDXL (`sdxl`, `use_sdxl`, `sdxl_train_network.py`)."),
    Option("secondary_separator", "data.captions.secondary_separator", "Between tags that stay together.", kinds.text),
    Option(
        "token_warmup_min", "data.captions.token_warmup_min",
        "Tags at the start of the token warm-up.", kinds.whole,
    ),
    Option(
        "token_warmup_step", "data.captions.token_warmup_steps",
        "Optimizer steps until all tags are used; below 1 a share of `max_train_steps`.",
    ),
    Option("use_lion_optimizer", "optimizer=lion", "An old way to ask for Lion."),
    Option("v_pred_like_loss", "objective/weighting=v_like", "Adds a share of the loss that v-prediction would have."),
    Option(
        "validation_split", "data.validation.share",
        "Share of the images that is not trained on but watched.", kinds.number,
    ),
    Option("wandb_run_name", "logger.wandb.name", "The run's name at Weights & Biases."),
    Option("weighted_captions", "model.emphasis", "`(tag:1.2)` weighs words.", kinds.flag),
    Option("zero_terminal_snr", "model.zero_terminal_snr", "The noise schedule ends in pure noise."),
)
"""What else sd-scripts and its GUI know that has a counterpart here."""

NETWORK_ARGS = (
    Option("algo", "adapter=…", "LyCORIS' kind: lora, locon, loha, lokr."),
    Option("block_alphas", "targets.blocks.alpha", "An alpha for each block of the UNet."),
    Option("block_dims", "targets.blocks.rank", "A rank for each block of the UNet."),
    Option("block_lr_zero_threshold", "targets.blocks.lr_factor", "Factors up to it are 0."),
    Option("conv_alpha", "adapter.conv_alpha", "Alpha of k×k convolutions."),
    Option("conv_block_alphas", "targets.blocks.conv_alpha", "Their alpha for each block."),
    Option("conv_block_dims", "targets.blocks.conv_rank", "Their rank for each block."),
    Option("conv_dim", "adapter.conv_rank", "Rank of k×k convolutions."),
    Option("decompose_both", "adapter.decompose_both", "Gives LoKr's small matrix a low rank too."),
    Option("dora_wd", "adapter=dora", "Learns the weights' magnitude apart."),
    Option("down_lr_weight", "targets.blocks.lr_factor", "Learning-rate factors of the UNet's input blocks."),
    Option("dropout", "adapter.dropout", "Leaves out elements inside the adapter."),
    Option("factor", "adapter.factor", "Size of LoKr's small matrix."),
    Option("full_matrix", "adapter.full_matrix", "Keeps LoKr's large matrix whole."),
    Option("loraplus_lr_ratio", "targets.loraplus_ratio", "LoRA+: the rate of the tensors that start at zero."),
    Option("loraplus_text_encoder_lr_ratio", "targets.loraplus_ratio", "The same, of the text encoders."),
    Option("loraplus_unet_lr_ratio", "targets.loraplus_ratio", "The same, of the UNet."),
    Option("mid_lr_weight", "targets.blocks.lr_factor", "Learning-rate factor of the middle block."),
    Option("module_dropout", "adapter.module_dropout", "Leaves out whole layers' adapters."),
    Option("preset", "targets.…", "LyCORIS' choice of layers."),
    Option("rank_dropout", "adapter.rank_dropout", "Leaves out rank components."),
    Option("rs_lora", "adapter.rank_stabilised", "Scales by alpha / √rank."),
    Option("up_lr_weight", "targets.blocks.lr_factor", "Learning-rate factors of the UNet's output blocks."),
    Option("wd_on_output", "adapter.magnitude", "DoRA's magnitudes are those of the outputs, not of the inputs."),
    Option("block_size", "", "of DyLoRA, which is not here"),
    Option("bypass_mode", "", "how LyCORIS computes, not what it trains"),
    Option("constraint", "", "of OFT, which is not here"),
    Option("rank_dropout_scale", "", "rank dropout always keeps the mean"),
    Option("rescaled", "", "of OFT, which is not here"),
    Option("train_norm", "", "training of normalisation layers"),
    Option("train_on_input", "", "of iA3, which is not here"),
    Option("unbalanced_factorization", "", "the sides of LoKr's small matrix are split evenly"),
    Option("use_conv_cp", "", "a Tucker form of convolutions, which can be read but is not trained here"),
    Option("use_cp", "", "a Tucker form of convolutions, which can be read but is not trained here"),
    Option("use_scalar", "", "a scalar beside each adapter"),
    Option("use_tucker", "", "a Tucker form of convolutions, which can be read but is not trained here"),
)
"""Arguments of sd-scripts' and LyCORIS' networks, given by name in `network_args`."""
# fmt: on

_NO_COUNTERPART = {
    "what accelerate starts processes with; here trainer.devices and trainer.strategy": (
        "num_processes num_machines multi_gpu gpu_ids main_process_port num_cpu_threads_per_process "
        "extra_accelerate_launch_args ddp_timeout ddp_gradient_as_bucket_view ddp_static_graph"
    ),
    "DeepSpeed; here trainer.strategy": (
        "deepspeed zero_stage offload_optimizer_device offload_optimizer_nvme_path offload_param_device "
        "offload_param_nvme_path zero3_init_flag zero3_save_16bit_model fp16_master_weights_and_gradients"
    ),
    "compiling the model": ("torch_compile dynamo_backend dynamo_mode dynamo_use_dynamic dynamo_use_fullgraph"),
    "the hub: nothing is uploaded": (
        "huggingface_repo_id huggingface_repo_type huggingface_path_in_repo huggingface_token "
        "huggingface_repo_visibility save_state_to_huggingface resume_from_huggingface async_upload"
    ),
    "adapters are always trained in 32 bits; the frozen base may have fewer: model.dtype, model.quantize": (
        "full_fp16 full_bf16 fp8_base fp8_base_unet"
    ),
    "the VAE always runs in 32 bits": "no_half_vae",
    "how memory is used, not what is trained": (
        "lowram lowvram highvram vae_batch_size mem_eff_save cpu_offload_checkpointing blocks_to_swap "
        "fused_backward_pass fused_optimizer_groups blockwise_fused_optimizers "
        "disable_mmap_load_safetensors skip_cache_check"
    ),
    "data.cache.text keeps text-encoder outputs; where and in which portions is not a choice": (
        "cache_text_encoder_outputs_to_disk text_encoder_batch_size"
    ),
    "what is known of images is always kept": "cache_info",
    "the resize filters are area when shrinking and Lanczos otherwise": "resize_interpolation",
    "crops around faces": "face_crop_aug_range",
    "there is one way of padding captions, sd-scripts' own": "no_token_padding",
    "rank and alpha of adapter.weights are always the file's": "dim_from_weights",
    "merging adapters before training: loralab merge makes such a base": "base_weights base_weights_multiplier",
    "training a text encoder for a part of the run": "stop_text_encoder_training stop_text_encoder_training_pct",
    "the tokenizer comes with the base, or from model.tokenizer": "tokenizer_cache_dir",
    "memory-efficient attention of its own: model.attention=auto takes torch's": "mem_eff_attn",
    "a schedule with a decay at the end": "lr_decay_steps",
    "a program can be resumed where it stopped (resume=auto), so nothing is skipped": (
        "initial_epoch initial_step skip_until_initial_step"
    ),
    "states are kept as callbacks.state.keep_last says": "save_last_n_epochs_state save_last_n_steps_state",
    "pictures are sampled with the model's own sampler": "sample_sampler",
    "logs of another kind": (
        "log_prefix log_tracker_name log_tracker_config log_config wandb_api_key console_log_level console_log_file "
        "console_log_simple use_wandb"
    ),
    "a line of the metadata that is not written": (
        "metadata_title metadata_author metadata_description metadata_license metadata_tags metadata_usage_hint "
        "metadata_thumbnail metadata_merged_from metadata_trigger_phrase metadata_preprocessor "
        "metadata_is_negative_embedding"
    ),
    "validation runs as callbacks.validation says": (
        "validation_seed validate_every_n_steps validate_every_n_epochs max_validation_steps"
    ),
    "a dataset class of one's own": "dataset_class",
    "looking at the data: loralab doctor": "debug_dataset",
    "the file it came from": "config_file output_config save_toml save_toml_location save_json_name",
    "a list of files to train: settings.run_folder trains a folder of them": "list_of_json_to_run",
    "the tags are counted beside the adapter": "tag_file_location",
    "the scale of single adapters while training": "network_multiplier",
    "a choice of the GUI, not of the training": (
        "model_list training_preset save_as_bool save_as headless print_only use_shell conv_dims conv_alphas"
    ),
    "another family of models": (
        "ae clip_l clip_g t5xxl gemma2 t5xxl_device t5xxl_dtype t5xxl_max_token_length clip_l_dropout_rate "
        "clip_g_dropout_rate t5_dropout_rate discrete_flow_shift model_prediction_type timestep_sampling sigmoid_scale "
        "guidance_scale split_mode split_qkv train_blocks apply_t5_attn_mask apply_lg_attn_mask double_blocks_to_swap "
        "single_blocks_to_swap enable_all_linear in_dims img_attn_dim img_mlp_dim img_mod_dim single_dim "
        "single_mod_dim "
        "txt_attn_dim txt_mlp_dim txt_mod_dim train_double_block_indices train_single_block_indices train_t5xxl "
        "weighting_scheme logit_mean logit_std mode_scale training_shift pos_emb_random_crop_rate "
        "enable_scaled_pos_embed "
        "save_clip save_t5xxl disable_mmap use_flash_attn use_sage_attn system_prompt cfg_trunc renorm_cfg"
    ),
}

NO_COUNTERPART = tuple(Option(name, "", why) for why, names in _NO_COUNTERPART.items() for name in names.split())
"""What other trainers know and this one does not, with the reason."""

OTHER_FAMILIES = ("flux", "flux1", "sd3", "lumina", "hunyuan", "hunyuan_image", "anima", "chroma", "qwen")
"""Options that start so, with an underscore, are those of other families of models."""

OPTIONS = {
    option.name: option
    for option in (
        *PARAMETERS,
        *FURTHER,
        *(Option(f"network_args.{o.name}", o.key, o.what, o.kind) for o in NETWORK_ARGS),
        *NO_COUNTERPART,
    )
}
"""Everything that is known, by name."""
