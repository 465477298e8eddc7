"""Unknown keys that can be explained: a name of another trainer, or a setting of an option that is not chosen."""

from __future__ import annotations

import re
from functools import cache

from loralab.schema.compose import CONF, option_file, options_of
from loralab.schema.sources import raw
from loralab.schema.tree import exists

SHORT = {
    "adam_beta1": "optimizer.betas",
    "adam_beta2": "optimizer.betas",
    "adam_epsilon": "optimizer.eps",
    "adam_weight_decay": "optimizer.weight_decay",
    "base_model_name": "model.base",
    "checkpointing_steps": "callbacks.state.every_n_steps",
    "class_data_dir": "data.reg_folder",
    "dataloader_num_workers": "data.num_workers",
    "epochs": "trainer.max_epochs",
    "instance_data_dir": "data.folder",
    "instance_prompt": "data.captions.trigger",
    "lora_alpha": "adapter.alpha",
    "lora_dim": "adapter.rank",
    "lora_dropout": "adapter.dropout",
    "lora_rank": "adapter.rank",
    "lr": "optimizer.lr",
    "max_steps": "trainer.max_steps",
    "network_rank": "adapter.rank",
    "num_epochs": "trainer.max_epochs",
    "num_steps": "trainer.max_steps",
    "num_train_epochs": "trainer.max_epochs",
    "random_flip": "data.augment.flip",
    "report_to": "logger=…",
    "resume_from_checkpoint": "resume",
    "snr_gamma": "objective/weighting=min_snr",
    "steps": "trainer.max_steps",
    "text_encoder_lr": "targets.text_encoder_lr",
    "train_steps": "trainer.max_steps",
    "unet_lr": "targets.unet_lr",
    "validation_epochs": "callbacks.samples.every_n_epochs",
    "validation_prompt": "callbacks.samples.prompts",
}
"""Names from the scripts of diffusers and others, and common short names."""


def remedy_for(key: str) -> str | None:
    """What to type in place of a key, where that is certain."""
    return _of_an_option(key) or _of_another_trainer(key)


def _of_another_trainer(key: str) -> str | None:
    from loralab.schema.catalogue import OPTIONS

    name = key.lstrip("-").replace("-", "_")
    old = {option.old: option for option in OPTIONS.values() if option.old}
    option = OPTIONS.get(name) or OPTIONS.get(f"network_args.{name}") or old.get(name)
    ours = SHORT.get(name) or (option.key if option else None)
    if ours:
        group = option_of(ours)
        return f"did you mean '{ours}'?" + (f" (also add {group})" if group else "")
    return f"not supported here: {option.what}" if option else None


def _of_an_option(key: str) -> str | None:
    group = option_of(key)
    return f"it belongs to another option: add {group}" if group else None


@cache
def option_of(key: str) -> str | None:
    """The options that have a setting, as group=option, unless an option that is chosen by default has it."""
    parts = re.sub(r"=.*", "", key).split(".")
    for end in range(len(parts) - 1, 0, -1):
        group, inside = "/".join(parts[:end]), ".".join(parts[end:])
        having = [option for option in options_of(group) if _has(group, option, (inside, key))]
        if having and not (set(having) & _chosen(group)):
            return f"{group}={' | '.join(having)}"
    return None


def _has(group: str, option: str, paths: tuple[str, ...]) -> bool:
    """Whether an option has one of these, in its own file or in one that it inherits from."""
    file = option_file(group, option)
    settings = raw(file) if file else {}
    parents = [default.partition("@")[0] for default in settings.get("defaults") or () if isinstance(default, str)]
    own = any(exists(settings, path) for path in paths)
    return own or any(_has(group, parent, paths) for parent in parents if parent != "_self_")


def _chosen(group: str) -> set[str]:
    """The options of a group that are chosen by default."""
    parent, _, name = group.rpartition("/")
    files = [CONF / "train.yaml"] if not parent else sorted((CONF / parent).glob("*.yaml"))
    defaults = [default for file in files for default in raw(file).get("defaults") or ()]
    return {str(default[name]) for default in defaults if isinstance(default, dict) and default.get(name)}
