"""The folders of a training, each with its own rules, built from the data settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from loralab.data.augment import Augment
from loralab.data.captions import Captions
from loralab.errors import Problem, UserError, user_error
from loralab.schema.nearest import did_you_mean
from loralab.schema.ranges import NonNegative, Repeats


@dataclass(frozen=True)
class Folder:
    """One folder of images and its settings.

    path: of the folder. repeats, class_tokens: of images outside of `N_name` sub-folders. weight: of their loss.
    captions, augment: its rules. mask_folder: loss masks, named like the images.
    metadata: a file with the captions; null: metadata.jsonl, .csv or .parquet in the folder, where there is one.
    is_reg: regularisation (prior-preservation) images. setting: where the path was given, for messages.
    """

    path: str
    repeats: Repeats = 1
    class_tokens: str = ""
    weight: NonNegative = 1.0
    captions: Captions = field(default_factory=Captions)
    augment: Augment = field(default_factory=Augment)
    mask_folder: str | None = None
    metadata: str | None = None
    is_reg: bool = False
    setting: str = "data.folder"

    def beside(self, name: str) -> str:
        """The key of another setting of this folder."""
        return f"{self.setting.rpartition('.')[0]}.{name}"

    @property
    def extension(self) -> str:
        return self.captions.suffix_of_files

    @property
    def captions_setting(self) -> str:
        """The key of the caption files' extension: folders of the list have rules of their own."""
        return f"{self.beside('captions') if self.setting.startswith('data.folders') else 'data.captions'}.extension"


def gather(
    folder: str | None,
    folders: Sequence[Mapping[str, Any]],
    reg_folder: str | None,
    captions: Captions,
    augment: Augment,
    mask_folder: str | None = None,
    metadata: str | None = None,
) -> list[Folder]:
    """The folder, those of the list, and the regularisation folder. Raises a UserError if there is nothing to train on.

    folders: settings of a Folder each; their `captions` and `augment` contain what differs from those given.
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
    changes = {name: settings.pop(name, None) or {} for name in ("captions", "augment")}
    rules = {"captions": captions, "augment": augment}
    problems = list(_wrong_keys(setting, Folder, settings))
    for name, changed in changes.items():
        problems += _wrong_keys(f"{setting}.{name}", rules[name], changed)
    if problems:
        raise UserError(*problems)
    if "path" not in settings:
        raise user_error(f"{setting}.path", "is missing", "give the folder of the images")
    own: dict[str, Any] = {
        name: replace(rules[name], **{key: value for key, value in changed.items() if key != "_target_"})
        for name, changed in changes.items()
    }
    if settings.get("is_reg"):
        own["captions"] = _of_reg(own["captions"])
    return Folder(**settings, **own, setting=f"{setting}.path")


def _of_reg(captions: Captions) -> Captions:
    """Caption rules for regularisation images: without the trigger word, which names what they do not show."""
    return replace(captions, trigger=None)


def _wrong_keys(setting: str, kind: Any, given: Any) -> Iterator[Problem]:
    """What is wrong with the keys of a folder's settings, or of its rules."""
    if not isinstance(given, Mapping):
        yield Problem(setting, f"invalid value {given!r}", "valid: settings by name, such as {shuffle: true}")
        return
    valid = [f.name for f in fields(kind) if f.name != "setting"]
    for key in (key for key in given if key not in valid and key != "_target_"):
        remedy = did_you_mean(str(key), valid) or f"valid: {', '.join(valid)}"
        yield Problem(f"{setting}.{key}", "unknown setting", remedy)
