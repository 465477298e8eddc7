"""The folders of a training, each with its own rules, and how the settings of the data give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from loralab.data.augment import Augment
from loralab.data.captions import Captions
from loralab.errors import user_error
from loralab.values import AtLeastOne, NonNegative


@dataclass(frozen=True)
class Folder:
    """One folder of images and what holds for them.

    path: of the folder. repeats, class_tokens: of images outside of its `N_name` sub-folders. weight: of their loss.
    captions, augment: its rules. mask_folder: loss masks, named like the images.
    metadata: a file with the captions; null: metadata.jsonl, .csv or .parquet in the folder, where there is one.
    is_reg: regularisation (prior-preservation) images. setting: where the path was given, for messages.
    """

    path: str
    repeats: AtLeastOne = 1
    class_tokens: str = ""
    weight: NonNegative = 1.0
    captions: Captions = field(default_factory=Captions)
    augment: Augment = field(default_factory=Augment)
    mask_folder: str | None = None
    metadata: str | None = None
    is_reg: bool = False
    setting: str = "data.folder"

    def beside(self, name: str) -> str:
        """Where another setting of this folder is given."""
        return f"{self.setting.rpartition('.')[0]}.{name}"

    @property
    def extension(self) -> str:
        return self.captions.suffix_of_files


def gather(
    folder: str | None,
    folders: Sequence[Mapping[str, Any]],
    reg_folder: str | None,
    captions: Captions,
    augment: Augment,
    mask_folder: str | None = None,
    metadata: str | None = None,
) -> list[Folder]:
    """The folder, those of the list, the regularisation folder. Raises a UserError where there is nothing to train on.

    folders: settings of a Folder each; their `captions` and `augment` hold what differs from those given.
    """
    found = [_folder(number, entry, captions, augment) for number, entry in enumerate(folders)]
    if folder:
        own = Folder(folder, captions=captions, augment=augment, mask_folder=mask_folder, metadata=metadata)
        found.insert(0, own)
    if not found:
        raise user_error("data.folder", "is missing", "give the folder of your images: data.folder=PATH")
    if reg_folder:
        rules = {"captions": _of_reg(captions), "augment": augment}
        found.append(Folder(reg_folder, **rules, is_reg=True, setting="data.reg_folder"))
    return found


def _folder(number: int, entry: Mapping[str, Any], captions: Captions, augment: Augment) -> Folder:
    setting, settings = f"data.folders.{number}", dict(entry)
    captions = _changed(f"{setting}.captions", captions, settings.pop("captions", None) or {})
    augment = _changed(f"{setting}.augment", augment, settings.pop("augment", None) or {})
    _check_keys(setting, Folder, settings)
    if "path" not in settings:
        raise user_error(f"{setting}.path", "is missing", "give the folder of the images")
    if settings.get("is_reg"):
        captions = _of_reg(captions)
    return Folder(**settings, captions=captions, augment=augment, setting=f"{setting}.path")


def _changed(setting: str, rules: Any, changes: Mapping[str, Any]) -> Any:
    """Rules with what a folder's own settings change."""
    changes = {key: value for key, value in dict(changes).items() if key != "_target_"}
    _check_keys(setting, rules, changes)
    return replace(rules, **changes)


def _of_reg(captions: Captions) -> Captions:
    """Caption rules for regularisation images: the trigger word names what is new, and they show what is not."""
    return replace(captions, trigger=None)


def _check_keys(setting: str, kind: Any, given: Mapping[str, Any]) -> None:
    valid = [f.name for f in fields(kind) if f.name != "setting"]
    for key in given:
        if key not in valid:
            raise user_error(f"{setting}.{key}", "there is no such setting", f"valid: {', '.join(valid)}")
