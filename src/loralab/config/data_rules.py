"""What the data's settings must keep to: the classes that would find out when training starts are asked at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from loralab.config.signature import misfits
from loralab.data.augment import Augment
from loralab.data.buckets import LATENT, Buckets, resolutions
from loralab.data.captions import Captions
from loralab.data.folders import gather
from loralab.errors import Problem, UserError

SDXL_STEP = 32
"""SDXL's UNet halves latents twice: 8 · 4 pixels."""


def data_problems(data: dict[str, Any], sdxl: bool) -> Iterator[Problem]:
    """data: the data node, plain values; sdxl: whether the base model is of that family."""
    nodes = {name: _settings(data.get(name)) for name in ("buckets", "captions", "augment")}
    yield from _raised(lambda: _sizes(nodes["buckets"], data.get("resolution")))
    yield from _raised(lambda: _folders(data, nodes))
    for number, entry in enumerate(data.get("folders") or []):
        yield from _entry(f"data.folders.{number}", entry)
    step = nodes["buckets"].get("step")
    if sdxl and isinstance(step, int) and step % SDXL_STEP and not step % LATENT:
        yield Problem("data.buckets.step", f"{step} is not a multiple of {SDXL_STEP}, as SDXL needs", "64 suits")
    if _settings(data.get("cache")).get("text"):
        yield from _raised(lambda: _texts(nodes["captions"]))


def _sizes(buckets: dict[str, Any], resolution: Any) -> None:
    made = Buckets(**buckets)
    for size in resolutions(resolution) if isinstance(resolution, (int, list)) else ():
        made.sizes(size)


def _folders(data: dict[str, Any], nodes: dict[str, dict[str, Any]]) -> None:
    if folders := data.get("folders"):
        gather(None, folders, None, Captions(**nodes["captions"]), Augment(**nodes["augment"]))


def _entry(path: str, entry: Any) -> Iterator[Problem]:
    """Values of a folder's own settings that do not fit; keys are seen to by gather()."""
    rules = {"captions": "captions.Captions", "augment": "augment.Augment"}
    plain = {key: value for key, value in _settings(entry).items() if key not in rules}
    yield from misfits(path, "loralab.data.index.Folder", plain)
    for name, target in rules.items():
        yield from misfits(f"{path}.{name}", f"loralab.data.{target}", _settings(_settings(entry).get(name)))


def _texts(captions: dict[str, Any]) -> None:
    if Captions(**captions).varies:
        remedy = "data.cache.text=false: captions are encoded as they come"
        raise UserError(Problem("data.cache.text", "contradicts captions that vary (shuffle, tag dropout …)", remedy))


def _raised(ask: Callable[[], None]) -> Iterator[Problem]:
    try:
        ask()
    except UserError as error:
        yield from error.problems
    except (TypeError, ValueError, AttributeError):
        return  # a value of the wrong kind: the check of types tells it


def _settings(node: Any) -> dict[str, Any]:
    """What a node sets, without Hydra's own keys."""
    return {key: value for key, value in node.items() if not key.startswith("_")} if isinstance(node, dict) else {}
