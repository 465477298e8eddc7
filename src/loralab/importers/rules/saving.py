"""What is saved, and when: adapter files and training states; where curves are logged to."""

from __future__ import annotations

from loralab.importers.foreign import Foreign
from loralab.importers.rules.ours import Ours


def saving(foreign: Foreign, ours: Ours) -> None:
    names = [name for name in ("save_state", "save_state_on_train_end") if foreign.has(name)]
    if names:
        wanted = [foreign.take(name) for name in names]
        ours.set("callbacks.state.enabled", any(wanted), *names)
    if ours.choices.get("logger") == "many":
        foreign.warnings.append("logs to all trackers: here to TensorBoard and CSV")
    epochs, steps = foreign.take("save_every_n_epochs") or 0, foreign.take("save_every_n_steps") or 0
    if ratio := foreign.take("save_n_epoch_ratio"):
        epochs = max(1, (ours.values.get("trainer.max_epochs") or 0) // ratio)
        foreign.leave("save_every_n_epochs", "overridden by save_n_epoch_ratio")
    if epochs or "save_every_n_epochs" in foreign.options:
        ours.set("callbacks.export.every_n_epochs", epochs or None, "save_every_n_epochs", "save_n_epoch_ratio")
    if steps or "save_every_n_steps" in foreign.options:
        ours.set("callbacks.export.every_n_steps", steps or None, "save_every_n_steps")
    last, within = foreign.take("save_last_n_epochs"), foreign.take("save_last_n_steps")
    if epochs and last:
        ours.set("callbacks.export.keep_last", last, "save_last_n_epochs")
    elif steps and within:
        ours.set("callbacks.export.keep_last", max(1, within // steps), "save_last_n_steps")
