"""The study of a search: what Optuna knows of its points, in a SQLite file in the sweep's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from optuna import Trial

FILE = "search.sqlite"
NAME = "search"


class StoredStudy:
    """Optuna's study in a file, which is made where there is none; sampler, pruner: Optuna's, or None for its own."""

    def __init__(
        self,
        file: Path,
        sampler: Any = None,
        pruner: Any = None,
        direction: Literal["minimize", "maximize"] = "minimize",
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
        self.study = optuna.create_study(
            storage=self.storage,
            study_name=NAME,
            load_if_exists=True,
            sampler=sampler,
            pruner=pruner,
            direction=direction,
        )

    def trial(self, number: int) -> Trial:
        """A trial that was begun, by whichever process."""
        from optuna import Trial

        known = self.storage.get_trial_id_from_study_id_trial_number(self.storage.get_study_id_from_name(NAME), number)
        return Trial(self.study, known)
