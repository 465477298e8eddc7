"""What is saved, and when: adapter files, training states, the metadata in them, the tag count beside them."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours
from loralab.schema import coerce


def saving(foreign: Foreign, ours: Ours) -> None:
    _adapter_files(foreign, ours)
    if foreign.has("no_metadata"):
        ours.set("output.metadata", not foreign.take("no_metadata", coerce.flag), "no_metadata")
    if foreign.has("sort_tag_occurrence_alphabetically"):
        alphabetical = foreign.take("sort_tag_occurrence_alphabetically", coerce.flag)
        order = "alphabetical" if alphabetical else "count"
        ours.set("callbacks.tag_occurrence.sort", order, "sort_tag_occurrence_alphabetically")
    names = [name for name in ("save_state", "save_state_on_train_end") if foreign.has(name)]
    if names:
        wanted = [foreign.take(name, coerce.flag) for name in names]
        ours.set("callbacks.state.enabled", any(wanted), *names)
    if foreign.has("json_load_skip_list"):
        ours.set("settings.skip", foreign.take("json_load_skip_list", coerce.names), "json_load_skip_list")


def _adapter_files(foreign: Foreign, ours: Ours) -> None:
    epochs = foreign.take("save_every_n_epochs", coerce.whole) or 0
    if ratio := foreign.take("save_n_epoch_ratio", coerce.whole):
        epochs = max(1, (ours.values.get("trainer.max_epochs") or 0) // ratio)
        foreign.leave("save_every_n_epochs", "overridden by save_n_epoch_ratio")
    steps = foreign.take("save_every_n_steps", coerce.whole) or 0
    if epochs or "save_every_n_epochs" in foreign.options:
        ours.set("callbacks.export.every_n_epochs", epochs or None, "save_every_n_epochs", "save_n_epoch_ratio")
    if steps or "save_every_n_steps" in foreign.options:
        ours.set("callbacks.export.every_n_steps", steps or None, "save_every_n_steps")
    last, within = foreign.take("save_last_n_epochs", coerce.whole), foreign.take("save_last_n_steps", coerce.whole)
    if epochs and last:
        ours.set("callbacks.export.keep_last", last, "save_last_n_epochs")
    elif steps and within:
        ours.set("callbacks.export.keep_last", max(1, within // steps), "save_last_n_steps")
    for name in ("save_last_n_epochs", "save_last_n_steps"):
        if name not in ours.origins.get("callbacks.export.keep_last", ()):
            foreign.leave(name, "has no effect: nothing is saved at such intervals")
