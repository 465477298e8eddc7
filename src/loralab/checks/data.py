"""Rules of the data settings, checked at once by the classes that training would build from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from loralab.data.augment import Augment
from loralab.data.buckets import LATENT, Buckets, resolutions
from loralab.data.captions import Captions
from loralab.data.extensions import EXTENSIONS
from loralab.data.folders import Folder, gather
from loralab.errors import Problem, UserError
from loralab.models.registry import Row
from loralab.schema.constructors import misfits


def data_problems(data: dict[str, Any], family: Row | None = None) -> Iterator[Problem]:
    """data: the data node, plain values; family: that of the base model, where it is known."""
    nodes = {name: _settings(data.get(name)) for name in ("buckets", "captions", "augment")}
    yield from _raised(lambda: _sizes(nodes["buckets"], data.get("resolution")))
    yield from _raised(lambda: _folders(data, nodes))
    yield from _limits(data)
    yield from _extension(nodes["captions"].get("extension"))
    for number, entry in enumerate(data.get("folders") or []):
        yield from _entry(f"data.folders.{number}", entry)
    step = nodes["buckets"].get("step")
    if family and isinstance(step, int) and step % family.bucket_step and not step % LATENT:
        found = f"{step} is not a multiple of {family.bucket_step}, as {family.title} requires"
        yield Problem("data.buckets.step", found, "use 64")
    cache = _settings(data.get("cache"))
    if cache.get("text"):
        yield from _raised(lambda: _texts(data, nodes))
    augments = {"data.augment": nodes["augment"]}
    for number, entry in enumerate(data.get("folders") or []):
        augments[f"data.folders.{number}.augment"] = _settings(_settings(entry).get("augment"))
    if cache.get("latents", "none") != "none":
        yield from _fixed(augments, cache)
    yield from _unused_variants(augments, cache)


def _sizes(buckets: dict[str, Any], resolution: Any) -> None:
    wrong = [*misfits("data", "loralab.data.module.DataModule", {"resolution": resolution})]
    if wrong or any(misfits("data.buckets", "loralab.data.buckets.Buckets", buckets)):
        return  # reported elsewhere; invalid sizes could make endless lists of buckets
    made = Buckets(**buckets)
    for size in resolutions(resolution) if isinstance(resolution, (int, list)) else ():
        made.sizes(size)


def _folders(data: dict[str, Any], nodes: dict[str, dict[str, Any]]) -> list[Folder]:
    names = ("folder", "folders", "reg_folder")
    folder, folders, reg_folder = (data.get(name) for name in names)
    captions, augment = Captions(**nodes["captions"]), Augment(**nodes["augment"])
    return gather(folder, folders or [], reg_folder, captions, augment) if folder or folders else []


def _limits(data: dict[str, Any]) -> Iterator[Problem]:
    low, high = data.get("min_image_size"), data.get("max_image_size")
    if isinstance(low, int) and isinstance(high, int) and low > high:
        found = f"{low} is above data.max_image_size={high}: every image would be skipped"
        yield Problem(
            "data.min_image_size", found, "lower it (it limits the shorter side), or raise data.max_image_size"
        )


def _extension(extension: Any) -> Iterator[Problem]:
    if isinstance(extension, str) and f".{extension.lstrip('.')}".lower() in EXTENSIONS:
        yield Problem(
            "data.captions.extension",
            f"'{extension}' is an image extension",
            "give the extension of the caption files, such as .txt",
        )


def _entry(path: str, entry: Any) -> Iterator[Problem]:
    """Invalid values among a folder's own settings; unknown keys are found by gather()."""
    rules = {"captions": "captions.Captions", "augment": "augment.Augment"}
    plain = {key: value for key, value in _settings(entry).items() if key not in rules}
    yield from misfits(path, "loralab.data.folders.Folder", plain)
    for name, target in rules.items():
        yield from misfits(f"{path}.{name}", f"loralab.data.{target}", _settings(_settings(entry).get(name)))


def _texts(data: dict[str, Any], nodes: dict[str, dict[str, Any]]) -> None:
    if any(folder.captions.varies for folder in _folders(data, nodes)):
        remedy = "set data.cache.text=false: captions are then encoded in every step"
        raise UserError(
            Problem("data.cache.text", "cannot be combined with captions that vary (shuffle, tag dropout …)", remedy)
        )


def _fixed(augments: dict[str, dict[str, Any]], cache: dict[str, Any]) -> Iterator[Problem]:
    """Augmentations that vary from epoch to epoch, which a cache would freeze."""
    for path, augment in augments.items():
        if augment.get("color"):
            found = "cannot be combined with data.cache.latents: colours are changed before encoding"
            yield Problem(f"{path}.color", found, f"set data.cache.latents=none or {path}.color=false")
        if augment.get("random_crop") and cache.get("variants") == 1:
            remedy = (
                f"set data.cache.latents=none or {path}.random_crop=false, or data.cache.variants=4 to cache 4 crops"
            )
            found = "cannot be combined with data.cache.latents: a cached crop is fixed"
            yield Problem(f"{path}.random_crop", found, remedy)


def _unused_variants(augments: dict[str, dict[str, Any]], cache: dict[str, Any]) -> Iterator[Problem]:
    variants, cached = cache.get("variants"), cache.get("latents", "none") != "none"
    if (
        isinstance(variants, int)
        and variants > 1
        and not (cached and any(a.get("random_crop") for a in augments.values()))
    ):
        remedy = "set data.augment.random_crop=true and data/cache=disk, or data.cache.variants=1"
        yield Problem("data.cache.variants", f"{variants} has no effect: crops are not random, or not cached", remedy)


def _raised(ask: Callable[[], Any]) -> Iterator[Problem]:
    try:
        ask()
    except UserError as error:
        yield from error.problems
    except (TypeError, ValueError, AttributeError):
        return  # a value of the wrong type, which the type check reports


def _settings(node: Any) -> dict[str, Any]:
    """The settings of a node, without Hydra's own keys."""
    return {key: value for key, value in node.items() if not key.startswith("_")} if isinstance(node, dict) else {}
