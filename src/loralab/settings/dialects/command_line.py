"""A command line of sd-scripts, with the launcher before it and line ends in it, as a text.

Absent options have sd-scripts' own values. Epochs decide before steps. Warm-up is in optimizer steps, below 1 a share
of them. Of an option given twice the last counts.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from loralab.settings import kinds
from loralab.settings.content import Content
from loralab.settings.dialects import dataset_toml, sd_scripts_toml
from loralab.settings.dialects.defaults import SD_SCRIPTS
from loralab.settings.foreign import Foreign, Left
from loralab.settings.table import OPTIONS

NAMES = {f"--{key}": name for key, name in sd_scripts_toml.NAMES.items()}

_FLAGS = """
alpha_mask async_upload bucket_no_upscale cache_info cache_latents cache_latents_to_disk cache_text_encoder_outputs
cache_text_encoder_outputs_to_disk color_aug console_log_simple cpu_offload_checkpointing ddp_gradient_as_bucket_view
ddp_static_graph debiased_estimation_loss debug_dataset deepspeed dim_from_weights disable_mmap_load_safetensors
enable_bucket enable_wildcard flip_aug fp16_master_weights_and_gradients fp8_base fp8_base_unet full_bf16 full_fp16
fused_backward_pass gradient_checkpointing highvram ip_noise_gamma_random_strength log_config lowram masked_loss
mem_eff_attn multi_gpu network_train_text_encoder_only network_train_unet_only no_half_vae no_metadata
noise_offset_random_strength output_config persistent_data_loader_workers random_crop resume_from_huggingface
sample_at_first save_state save_state_on_train_end save_state_to_huggingface scale_v_pred_loss_like_noise_pred sdpa
shuffle_caption skip_cache_check skip_until_initial_step torch_compile use_8bit_adam use_lion_optimizer v2
v_parameterization weighted_captions xformers zero3_init_flag zero3_save_16bit_model zero_terminal_snr
"""
FLAGS = frozenset(_FLAGS.split())
"""Options without a value."""

_SEVERAL = "base_weights base_weights_multiplier lr_scheduler_args network_args optimizer_args text_encoder_lr"
SEVERAL = frozenset(_SEVERAL.split())
"""Options with any number of values."""


def read(content: Content) -> Foreign:
    found = Foreign("command-line", content, NAMES, SD_SCRIPTS, SD_SCRIPTS)
    given = words(found, content.data)
    scripts = [i for i, word in enumerate(given) if word.endswith(".py")]
    launcher, own = (given[: scripts[0]], given[scripts[0] + 1 :]) if scripts else ([], given)
    for key, _, value in options(found, launcher):
        found.left.append(Left(key, value, "of the launcher; here trainer.devices, .strategy and .precision"))
    if scripts:
        _script(found, given[scripts[0]])
    for key, name, value in options(found, own):
        if name in found.options:
            found.warnings.append(f"gives {key} twice: the last counts")
            found.drop(name)
        found.add(key, name, value)
    dataset_toml.follow(found)
    return found


def options(found: Foreign, words: list[str]) -> Iterator[tuple[str, str, object]]:
    """(key, option, value) for each option among the words."""
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not word.startswith("--"):
            if word not in ("accelerate", "launch", "python", "python3", "-m"):
                found.unknown.append(word)
            continue
        key, equals, value = word.partition("=")
        name = NAMES.get(key, key)
        values = [value] if equals else []
        most = 0 if name in FLAGS or equals else len(words) if name in SEVERAL else 1
        while most > len(values) and i < len(words) and not words[i].startswith("--"):
            values.append(words[i])
            i += 1
        yield key, name, _value(found, key, name, values)


def _value(found: Foreign, key: str, name: str, values: list[str]) -> object:
    if name in SEVERAL:
        return values
    if name in FLAGS or (name not in OPTIONS and not values):
        return kinds.flag(values[0]) if values and values[0].lower() in ("true", "false") else True
    if not values:
        raise found.error(key, "has no value", f"write {key}=…")
    return values[0]


def words(found: Foreign, text: str) -> list[str]:
    """The words, with quotes taken off; backslashes are part of Windows paths where there are such."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith(("#", "::", "REM "))]
    joined = re.sub(r"\s*[\\^`]\s*\n", " ", "\n".join(lines)).replace("\n", " ")
    lexer = shlex.shlex(joined, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    if re.search(r"(^|[\s=\"'])[A-Za-z]:\\", joined):
        lexer.escape = ""
    try:
        return list(lexer)
    except ValueError as error:
        raise found.error("the command line", f"cannot be read: {error}", "close every quote") from error


def _script(found: Foreign, path: str) -> None:
    script = re.split(r"[\\/]", path)[-1]
    if script.startswith("sdxl_"):
        found.imply("sdxl", script, True)
    elif not script.startswith(("train_network", "train_db", "fine_tune", "train_")):
        found.left.append(Left(script, path, "trains another family of models", "model"))
