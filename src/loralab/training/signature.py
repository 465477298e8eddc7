"""What can change the result of a run: its settings, the base model, the data.

Every setting counts but those listed here as harmless; of what a path leads to, the content counts. Of callbacks,
those of Lightning count that may change weights or batches. Callbacks of the user's own are taken to watch: whoever
lets one change the training changes it between two resumed runs at their own risk.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from loralab.schema.constructors import parameters
from loralab.schema.tree import leaves

if TYPE_CHECKING:
    from loralab.adapters.inject import AdapterSet
    from loralab.data.epoch.plan import Plan
    from loralab.models.family import Family

Signature = dict[str, Any]
"""Setting → value; what is no setting has a name with a space."""

PLACES = (
    *("model.base", "model.vae", "model.tokenizer", "adapter.weights"),
    *("data.folder", "data.folders", "data.reg_folder", "data.mask_folder", "data.metadata"),
    *("data.validation.folder", "data.cache_folder", "data.cache.folder", "data.cache.share", "resume_root"),
)
DEVICES = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
LOADING = ("data.num_workers", "data.persistent_workers")
THIS_RUN = (
    *("allow", "logger", "memory", "resume", "resume_force", "reuse", "run", "sweep"),
    *("trainer.log_every_n_steps", "trainer.profiler", "trainer.max_time"),
)
"""What is allowed, watched and continued this time, and what the run is called."""

HARMLESS: dict[str, tuple[str, ...]] = {
    "paths: the content they lead to counts": PLACES,
    "which device, and how it computes: the same up to rounding": (
        *DEVICES,
        *("speed", "trainer.deterministic", "model.attention", "model.kernels", "model.gradient_checkpointing"),
        "model.offload",
        "data.cache.text",
    ),
    "counted with what it is multiplied by": ("data.batch_size", "data.batch_pixels"),
    "how images are loaded": LOADING,
    "length: a schedule that depends on it cannot change it": ("trainer.max_epochs", "trainer.max_steps"),
    "whether a run continues": ("data.on_error", "health.stop_if_unchanged", "health.skips_in_a_row"),
    "watching, saving, and starting": (*THIS_RUN, "report", "callbacks", "output", "settings"),
    "others take their defaults from it": ("suggested",),
}
"""Why → settings, with all that is below them, that do not change the result."""

LOOKS_ON = "EarlyStopping"
"""Of Lightning's callbacks; others, like StochasticWeightAveraging, change weights or batches."""


def signature(settings: Mapping[str, Any], family: Family, adapters: AdapterSet, plan: Plan, devices: int) -> Signature:
    """The signature of a run. settings: the composed configuration; adapters: before the first step;
    devices: how many share a batch."""
    data = settings["data"]
    found = of_settings(settings) | {
        "data.batch_size × devices": data["batch_size"] * devices,
        "data.batch_pixels × devices": data["batch_pixels"] and f"{data['batch_pixels']} × {devices}",
        **{f"base model: {key}": value for key, value in leaves(family.identity)},
        "images": len(plan.index),
        "images and captions": plan.digest(),
        "adapter.weights": _started_from(settings, adapters),
    }
    if _goes_by_validation(settings):
        found["validation images"] = plan.validation_digest()
    return json.loads(json.dumps(found))  # as it will be read back


def inputs(settings: Mapping[str, Any], family: Family, adapters: AdapterSet, plan: Plan) -> dict[str, Any]:
    """What a run is made from besides its settings: counts, and digests of what the base model computes by its parts,
    of the adapter that it starts from (None: from none), of the data set, and of its validation set."""
    from loralab.models import fingerprint

    parts = {
        key: value if isinstance(value, str | None) else fingerprint.digest(value)
        for key, value in family.identity.items()
    }
    return {
        "base_model": parts,
        "adapter": _started_from(settings, adapters),
        "images": len(plan.index),
        "data": plan.digest(),
        "validation": plan.validation_digest() if plan.validation else None,
    }


def digest(signature: Signature) -> str:
    """By which runs of the same signature know each other."""
    return blake2b(json.dumps(signature, sort_keys=True).encode(), digest_size=16).hexdigest()


def _started_from(settings: Mapping[str, Any], adapters: AdapterSet) -> str | None:
    """A digest of the weights of `adapter.weights`; adapters: before the first step."""
    from loralab.models import fingerprint

    return fingerprint.weights(adapters) if settings["adapter"].get("weights") else None


def of_settings(settings: Mapping[str, Any]) -> Signature:
    """The part of a signature that settings alone make, known before anything is loaded."""
    found = {key: value for key, value in leaves(settings) if not is_harmless(key)}
    for name, callback in (settings.get("callbacks") or {}).items():
        if _trains_along(callback) or (name == "validation" and _goes_by_validation(settings)):
            found |= dict(leaves(callback, f"callbacks.{name}"))
    found["data.cache.latents"] = "none" if settings["data"]["cache"]["latents"] == "none" else "cached"
    return json.loads(json.dumps({key: value for key, value in found.items() if not key.endswith("_partial_")}))


def common(settings: Mapping[str, Any], signature: Signature) -> Signature:
    """What all processes of a run must have in common: all that can change the result, or what they do together; of
    paths and folders, which may differ between machines, the content."""
    apart = (*PLACES, *LOADING, *(name for name in THIS_RUN if "." not in name), "output", "report", "settings")
    return {key: value for key, value in leaves(settings) if not _is_among(key, apart)} | signature


def is_harmless(key: str) -> bool:
    """Whether a setting does not change the result."""
    return key.endswith("_partial_") or any(_is_among(key, group) for group in HARMLESS.values())


def _is_among(key: str, settings: Iterable[str]) -> bool:
    """Whether a setting is one of these, or below one."""
    return any(f"{key}.".startswith(f"{setting}.") for setting in settings)


def differences(state: Signature, run: Signature) -> list[tuple[str, str, str]]:
    """(setting, what the state has, what the run has) of all that differs.

    A setting that is younger than the state is as it was if it has the default of its constructor.
    """
    return [
        (key, repr(state.get(key)), repr(run.get(key)))
        for key in sorted(state.keys() | run.keys())
        if state.get(key) != run.get(key) and (key in state or not _is_default(key, run))
    ]


def _is_default(key: str, run: Signature) -> bool:
    node, _, name = key.rpartition(".")
    found = parameters(str(run.get(f"{node}._target_"))) or {}
    return name in found and found[name].is_default(run[key])


def _trains_along(callback: Any) -> bool:
    """Whether a callback does more than observe."""
    if not isinstance(callback, Mapping) or callback.get("enabled") is False:
        return False
    package, _, name = str(callback.get("_target_")).rpartition(".")
    return package.startswith(("lightning.", "pytorch_lightning.")) and name != LOOKS_ON


def _goes_by_validation(settings: Mapping[str, Any]) -> bool:
    return str(settings["scheduler"]["_target_"]).endswith(".plateau")
