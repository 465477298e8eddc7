"""A command line of sd-scripts, alone or in a start script (.sh, .bat, .ps1), with the launcher before it.

Absent options have sd-scripts' defaults. Epochs take precedence over steps. Warm-up is in optimizer steps, below 1 a
share of them. Of an option given twice the last is used. Options may be abbreviated, as in argparse.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

from loralab.importers.content import Content, no_settings
from loralab.importers.dialects import dataset_toml, sd_scripts_toml
from loralab.importers.dialects.defaults import SD_SCRIPTS
from loralab.importers.foreign import Foreign, Left
from loralab.importers.script import Script, script
from loralab.models.registry import FAMILIES
from loralab.schema import coerce
from loralab.schema.catalogue import OPTIONS

NAMES = {f"--{key}": name for key, name in sd_scripts_toml.NAMES.items()}

_FLAGS = """
async_upload cache_info cache_text_encoder_outputs_to_disk console_log_simple cpu_offload_checkpointing
ddp_gradient_as_bucket_view ddp_static_graph debug_dataset deepspeed dim_from_weights disable_mmap_load_safetensors
fp16_master_weights_and_gradients full_bf16 full_fp16 fused_backward_pass highvram log_config
lowram mem_eff_attn multi_gpu no_half_vae output_config resume_from_huggingface save_state_to_huggingface
skip_cache_check skip_until_initial_step torch_compile zero3_init_flag zero3_save_16bit_model
split_attn unsloth_offload_checkpointing vae_disable_cache
compile compile_fullgraph cuda_allow_tf32 cuda_cudnn_benchmark disable_numpy_memmap dynamo_dynamic dynamo_fullgraph
flash3 flash_attn fp8_llm gradient_checkpointing_cpu_offload img_in_txt_in_offloading preserve_distribution_shape
sage_attn use_32bit_attention use_pinned_memory_for_block_swap
"""
UNSUPPORTED_FLAGS = frozenset(_FLAGS.split())
"""Options without a value that have no counterpart here."""

_SEVERAL = "base_weights base_weights_multiplier lr_scheduler_args network_args optimizer_args text_encoder_lr"
SEVERAL = frozenset(_SEVERAL.split())
"""Options with any number of values."""


LAUNCHER = re.compile(
    r"!?(.*[\\/])?(python[\d.]*w?|accelerate|torchrun|uv|poetry)(\.exe)?|launch|run|accelerate\.commands\.launch|-\w"
    r"|sudo|nohup|time|call|start|env|&|\w+=.*",
    re.IGNORECASE,
)
"""Words that start a program; the last is an environment variable."""

ENDS = re.compile(r"&&?|\|\|?|\d?>.*|<.*")
"""Shell words that end a command."""


def recognises(text: str) -> bool:
    """Whether a text contains a command with options."""
    return bool(script(text).commands)


def read(content: Content) -> Foreign:
    found = Foreign("command-line", content, NAMES, SD_SCRIPTS, SD_SCRIPTS)
    given = script(content.data, content.path.parent)
    launcher, program, own = command(content, words(found, _one_of(content, given.commands)))
    if program:
        _program(found, program)
    for key, _, value in options(found, launcher):
        found.left.append(
            Left(key, value, "an option of the launcher: set trainer.devices, trainer.strategy or trainer.precision")
        )
    for option in given.conditional:
        found.left.append(Left(option, True, "set under a condition of the script, which is not evaluated"))
    for key, name, value in options(found, own):
        if name in found.options:
            found.warnings.append(f"defines {key} twice: the last value is used")
            found.drop(name)
        found.add(key, name, value)
        _unknown_values(found, given, name, value)
    if found.has("config_file") and "config_file" not in found.unsure:
        _config_file(found)
    dataset_toml.follow(found)
    return found


def _one_of(content: Content, commands: list[str]) -> str:
    """The training command; a script may start other programs, too."""
    training = [command for command in commands if "train_network" in command] or commands
    if len(training) > 1:
        found = f"has {len(training)} training commands"
        raise no_settings(content.path, found, "save the one to use in a separate file")
    return training[0] if training else content.data


def command(content: Content, given: list[str]) -> tuple[list[str], str, list[str]]:
    """The launcher's arguments, the program, and the program's arguments."""
    at = next((i for i, word in enumerate(given) if word.endswith(".py")), -1)
    before, own = given[: max(at, 0)], given[at + 1 :]
    while any(ENDS.fullmatch(word) for word in before):
        before.pop(0)
    end = next((i for i, word in enumerate(own) if ENDS.fullmatch(word)), len(own))
    before = [word for word in before if not LAUNCHER.fullmatch(word)]
    if prose := [
        word for i, word in enumerate(before) if not word.startswith("-") and not (i and before[i - 1][0] == "-")
    ]:
        raise no_settings(content.path, f"is text, not a start script: {' '.join(prose[:5])} …")
    return before, given[at] if at >= 0 else "", own[:end]


def _config_file(found: Foreign) -> None:
    """sd-scripts reads that file first; its extension may be omitted."""
    found.starts_from = "config_file"
    path = str(found.options["config_file"])
    found.options["config_file"] = path if path.endswith(".toml") else f"{path}.toml"


def additional(found: Foreign) -> None:
    """The command line inside a settings file (`additional_parameters`), which overrides everything else."""
    if found.has("additional_parameters"):
        given = words(found, str(found.take("additional_parameters")))
        for key, name, value in options(found, given):
            if found.has(name):
                found.warnings.append(f"defines {found.keys[name]} twice: {key} of additional_parameters is used")
            found.drop(name)
            found.add(f"additional_parameters {key}", name, value)


def _unknown_values(found: Foreign, given: Script, name: str, value: object) -> None:
    """Notes an option whose value depends on running the script."""
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str) and (variable := given.unknown_in(text)):
            shown = variable if variable[0] in "$%" else f"${variable}"
            found.unsure[name] = f"{shown} {given.unknown[variable]}"


def is_flag(name: str) -> bool:
    """Whether an option has no value."""
    return name in UNSUPPORTED_FLAGS or (name in OPTIONS and OPTIONS[name].is_flag)


def options(found: Foreign, words: list[str]) -> Iterator[tuple[str, str, object]]:
    """(key, option, value) for each option among the words."""
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not word.startswith("--"):
            found.unknown.append(word)
            continue
        key, equals, value = word.partition("=")
        name = NAMES.get(_whole(key), key)
        values = [value] if equals else []
        most = 0 if is_flag(name) or equals else len(words) if name in SEVERAL else 1
        while most > len(values) and i < len(words) and not words[i].startswith("--"):
            values.append(words[i])
            i += 1
        yield key, name, _value(found, key, name, values)


def _whole(key: str) -> str:
    """The option that an abbreviated one means."""
    meant = [name for name in NAMES if name.startswith(key)]
    return meant[0] if len(meant) == 1 and len(key) > len("--x") else key


def _value(found: Foreign, key: str, name: str, values: list[str]) -> object:
    if name in SEVERAL:
        return values
    if is_flag(name) or (name not in OPTIONS and not values):
        return coerce.flag(values[0]) if values and values[0].lower() in ("true", "false") else True
    if not values:
        raise found.error(key, "has no value", f"write {key}=…")
    return values[0]


def words(found: Foreign, text: str) -> list[str]:
    """The words without quotes; backslashes are literal where there are Windows paths."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    if re.search(r"(^|[\s=\"'])[A-Za-z]:\\", text):
        lexer.escape = ""
    try:
        return list(lexer)
    except ValueError as error:
        raise found.error("the command line", f"cannot be parsed: {error}", "close every quote") from error


OTHER_FAMILIES = re.compile(r"(flux|sd3|lumina|hunyuan\w*|chroma|qwen\w*|wan|fpack|kandinsky\w*)_train\w*")
OTHER_TRAININGS = re.compile(
    r"(sdxl_|anima_|zimage_)?(train_db|train|fine_tune|train_textual_inversion\w*|train_control_?net\w*|train_leco)"
)


def _program(found: Foreign, path: str) -> None:
    name = re.split(r"[\\/]", path)[-1].removesuffix(".py")
    if OTHER_FAMILIES.fullmatch(name):
        found.left.append(Left(name, path, "trains another model family", "model"))
    elif OTHER_TRAININGS.fullmatch(name):
        found.left.append(Left(name, path, "does not train a LoRA", "adapter"))
    elif "train_network" not in name:
        known = "train_network.py and sdxl_train_network.py of sd-scripts, or train_*_lora.py of diffusers"
        raise no_settings(
            found.content.path, f"starts {name}.py, which is not supported", f"give a start script of {known}"
        )
    if name.startswith("sdxl_"):
        found.imply("sdxl", f"{name}.py", True)
    elif (family := name.partition("_")[0]) in FAMILIES:
        found.family = family
