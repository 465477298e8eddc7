"""sd-scripts' dataset configuration: tables [general], [[datasets]], [[datasets.subsets]].

It says nothing of training, where our values stay; of the data, absent keys have sd-scripts' own values.
"""

from __future__ import annotations

from pathlib import Path

from loralab.errors import UserError
from loralab.settings import content as contents
from loralab.settings import kinds
from loralab.settings.content import Content
from loralab.settings.foreign import Foreign

NAMES: dict[str, str] = {"general": "general", "datasets": "datasets"}


def read(content: Content) -> Foreign:
    found = Foreign("sd-scripts-dataset", content, NAMES)
    found.datasets = content.data
    for key in content.data:
        if key not in NAMES:
            found.unknown.append(key)
    return found


def follow(found: Foreign) -> None:
    """Reads the file that `dataset_config` names; a relative path starts here, or beside the file that names it."""
    if not found.has("dataset_config"):
        return
    path = Path(found.take("dataset_config", kinds.path))
    beside = found.content.path.parent / path
    try:
        content = contents.read(path if path.exists() or not beside.exists() else beside)
    except UserError as error:
        problem = error.problems[0]
        raise found.error(found.keys["dataset_config"], problem.found, problem.remedy) from error
    if not isinstance(content.data, dict) or not isinstance(content.data.get("datasets"), list):
        remedy = "give a file with [[datasets]] in it"
        raise found.error(found.keys["dataset_config"], f"'{path}' is no dataset configuration", remedy)
    found.datasets = content.data
