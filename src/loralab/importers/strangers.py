"""Files of programs that are not supported, recognised by keys that only they have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from loralab.importers.content import Content

OURS = "loralab"
"""The section of our own files, whose keys say nothing of other programs."""

DEPTH = 6
"""How deep nested tables are searched."""

MARKS: tuple[tuple[str, str], ...] = (
    (
        "a composed configuration of loralab (settings.save_folder writes a file that can be loaded)",
        "_target_ suggested",
    ),
    ("a configuration of concept sliders", "prompts_file pretrained_model network"),
    ("the prompts of concept sliders", "target positive unconditional neutral"),
    ("a dataset configuration of musubi-tuner for videos", "datasets video_directory"),
    ("a dataset configuration of musubi-tuner for videos", "datasets video_jsonl_file"),
    ("a configuration of EveryDream", "data_root resume_ckpt"),
    ("a configuration of HCP-Diffusion", "_base_"),
    ("a configuration of HCP-Diffusion", "lora_unet tokenizer_pt"),
    ("a configuration of axolotl", "base_model adapter lora_r"),
    ("a configuration of LLaMA-Factory", "model_name_or_path finetuning_type"),
    ("a dreambooth configuration of diffusers", "instance_data_dir instance_prompt"),
    ("a LECO configuration of kohya_ss, which does not train an image LoRA", "leco_denoise_guidance_scale"),
    ("a LECO configuration of kohya_ss, which does not train an image LoRA", "max_denoising_steps prompts_file"),
    ("a Dreambooth configuration of kohya_ss, which does not train a LoRA", "learning_rate_te1 learning_rate_te2"),
    ("a Dreambooth configuration of kohya_ss, which does not train a LoRA", "learning_rate_te no_token_padding"),
    ("a fine-tuning configuration of kohya_ss, which does not train a LoRA", "create_buckets full_path image_folder"),
    ("a textual-inversion configuration of kohya_ss, which does not train a LoRA", "token_string init_word"),
    ("the adapter_config.json of a PEFT adapter", "peft_type"),
    ("a configuration of a diffusers model", "_diffusers_version"),
    ("a configuration of a transformers model", "architectures model_type"),
    ("a tokenizer", "model_max_length tokenizer_class"),
    ("a workflow of ComfyUI", "class_type inputs"),
    ("a workflow of ComfyUI", "nodes links"),
)
"""What a file is that contains all of these keys at any depth; a leading -- is not part of a key."""

YAML_KEY = re.compile(r"^[\s-]*[\"']?([A-Za-z_][\w.-]*)[\"']?\s*:(?:\s|$)", re.MULTILINE)
YAML_TYPE = re.compile(r"^[\s-]*type:\s*[\"']?(\w+)", re.MULTILINE)


def stranger(content: Content) -> str:
    """What a file of an unsupported program is, in words; "" where it is not recognised as one."""
    if content.format == "text":
        keys = {*YAML_KEY.findall(content.data), *YAML_TYPE.findall(content.data)}
    else:
        keys = {key.removeprefix("--") for key in _keys(content.data)}
    return next((words for words, marks in MARKS if keys.issuperset(marks.split())), "")


def is_yaml(text: str) -> bool:
    """Whether most lines of a text are YAML keys with values."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return 2 * sum(bool(YAML_KEY.match(line)) for line in lines) > len(lines)


def _keys(data: Any, depth: int = DEPTH) -> Iterator[str]:
    if depth and isinstance(data, dict):
        for key, value in data.items():
            yield key
            yield from _keys(value, 0 if key == OURS else depth - 1)
    if depth and isinstance(data, list):
        for part in data[:20]:
            yield from _keys(part, depth - 1)
