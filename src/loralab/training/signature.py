"""What can change the result of a run: its settings, the base model, the data.

Not in it: device and the number of devices, workers, logging, saving, the length of the training, and paths; what
paths lead to is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralab.files import digest_file

if TYPE_CHECKING:
    from torch import nn

    from loralab.data.plan import Plan
    from loralab.models.family import Family

Signature = dict[str, Any]
"""Setting → value; what is no setting has a name with a space."""

GROUPS = ("seed", "model", "adapter", "targets", "objective", "data", "optimizer", "scheduler", "ema")
TRAINER = ("precision", "accumulate_grad_batches", "gradient_clip_val", "limit_train_batches", "overfit_batches")
LEFT_OUT = {
    "model.base",  # what it holds counts
    "model.vae",
    "model.tokenizer",
    "model.attention",  # the same up to rounding, like the device
    "model.gradient_checkpointing",
    "adapter.weights",
    "data.batch_size",  # counts times the devices
    "data.batch_pixels",
    "data.folder",
    "data.folders",  # their settings show in the images
    "data.reg_folder",
    "data.mask_folder",
    "data.metadata",
    "data.on_error",
    "data.num_workers",
    "data.persistent_workers",
    "data.cache_folder",
    "data.cache.folder",
    "data.cache.latents",  # counts as cached or not
    "data.validation.folder",
}


def signature(settings: Mapping[str, Any], family: Family, plan: Plan, devices: int) -> Signature:
    """The signature of a run. settings: the composed configuration; devices: how many share a batch."""
    data, weights = settings["data"], settings["adapter"].get("weights")
    return of_settings(settings) | {
        "data.batch_size × devices": data["batch_size"] * devices,
        "data.batch_pixels × devices": data["batch_pixels"] and f"{data['batch_pixels']} × {devices}",
        "base model": _model(family),
        "images": len(plan.index),
        "images and captions": _data(plan),
        "adapter.weights": weights and digest_file(Path(weights).expanduser()),
    }


def of_settings(settings: Mapping[str, Any]) -> Signature:
    """The part of a signature that settings alone make, known before anything is loaded."""
    flat = dict(_flat({key: settings[key] for key in GROUPS}))
    flat |= {f"trainer.{key}": settings["trainer"][key] for key in TRAINER}
    if str(settings["scheduler"]["_target_"]).endswith(".plateau"):  # it goes by what is validated, and when
        flat |= dict(_flat({"callbacks.validation": settings["callbacks"].get("validation")}))
    flat["data.cache.latents"] = "none" if settings["data"]["cache"]["latents"] == "none" else "cached"
    return json.loads(json.dumps(flat))  # as it will be read back


def differences(state: Signature, run: Signature) -> list[tuple[str, str, str]]:
    """(setting, what the state has, what the run has) of all that differs."""
    return [
        (key, repr(state.get(key)), repr(run.get(key)))
        for key in sorted(state.keys() | run.keys())
        if state.get(key) != run.get(key)
    ]


def _flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key != "_partial_":
                yield from _flat(value, f"{path}.{key}" if path else str(key))
    elif path not in LEFT_OUT:
        yield path, node


def _model(family: Family) -> str:
    """Of every tensor's name, shape and 64 of its values: a fine-tune or a merge changes some of them."""
    digest = blake2b(digest_size=16)
    modules: Iterable[nn.Module] = (*family.parts().values(), family.vae)
    for module in modules:
        for name, tensor in module.state_dict().items():
            values = tensor.detach().flatten()
            some = values[:: max(1, values.numel() // 64)][:64]
            digest.update(f"{name} {tuple(tensor.shape)} {some.tolist()}".encode())
    for encoder in family.encoders.values():
        digest.update(repr(encoder.signature()).encode())
    return digest.hexdigest()


def _data(plan: Plan) -> str:
    """Of every image's name, size in bytes, caption and settings, in the order of the index.

    Names without the folders that lead to them, so that a data set may be moved.
    """
    digest = blake2b(digest_size=16)
    for item in plan.index:
        sizes = [os.path.getsize(path) for path in (item.path, item.mask) if path]
        facts = (Path(item.path).name, sizes, item.caption, item.repeats, item.weight, item.is_reg, item.source)
        digest.update(repr(facts).encode())
    digest.update(repr([(folder.captions, folder.augment) for folder in plan.index.folders]).encode())
    return digest.hexdigest()
