"""Settings files of other trainers: what is said of them, their keys, and two steps of training by them."""

import json
import shlex
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from omegaconf import OmegaConf

from loralab.errors import UserError
from loralab.importers import content as contents
from loralab.importers.conversion import converted
from loralab.importers.expand import expand
from loralab.importers.peers import diffusers_scripts
from loralab.importers.peers.diffusers_scripts import PROGRAM
from loralab.schema.compose import compose
from tests import GOLDEN
from tests.support.images import picture
from tests.support.runs import train_py

PEERS = GOLDEN / "peers"


def composed(path, *overrides):
    expanded = expand([f"settings.load={path}", *overrides])
    assert not expanded.problems
    return compose(expanded.overrides)


def said(content, data):
    try:
        found = converted(replace(content, data=data) if content.path.suffix != ".sh" else as_command(content, data))
    except UserError as error:
        return str(error)
    assert not any("${" in line for line in found.overrides)
    return found.as_json(), found.taken


def as_command(content, data):
    """The content with a command of options."""
    given = [key if value is True else f"{key}={shlex.quote(str(value))}" for key, value in data.items()]
    program = PROGRAM.search(contents.read(content.path).data)
    return replace(content, format="text", data=f"accelerate launch {program[0]} {' '.join(given)}\n")


def without(data, path):
    """The data without the value at a path of keys and numbers."""
    found = deepcopy(data)
    node = found
    for part in path[:-1]:
        node = node[part]
    del node[path[-1]]
    return found


def set_at(data, path, value):
    found = deepcopy(data)
    node = found
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return found


WHOLE = ("optimizer_params",)
"""Tables that are one value."""


def paths(data, above=()):
    """The path of every value that says something: null and an empty text are words for a key that is not there."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if (key not in WHOLE and isinstance(value, dict)) or (
            isinstance(value, list) and any(isinstance(v, dict) for v in value)
        ):
            yield from paths(value, (*above, key))
        elif value not in (None, "") and not (isinstance(data, list)):
            yield (*above, key)


def content_of(path):
    """The content of a file, a YAML as the table that it is."""
    content = contents.read(path)
    if path.suffix == ".env":
        lines = [line.removeprefix("export ").partition("=")[::2] for line in content.data.splitlines()]
        return replace(content, format="json", data={key: value.strip('"') for key, value in lines})
    if path.suffix == ".sh":
        foreign = diffusers_scripts.read(content)
        data = {f"--{name}": value for name, value in foreign.options.items()}
        return replace(content, format="json", data=data)
    if content.format != "text" or path.suffix != ".yaml":
        return content
    return replace(content, format="json", data=OmegaConf.to_container(OmegaConf.create(content.data)))


def write_images(folder: Path) -> Path:
    """Four images with captions."""
    for number, colour in enumerate(("red", "green", "blue", "white")):
        picture(folder / "images" / f"{number}.png", (64, 64), colour, f"a {colour} thing")
    return folder / "images"


def trained(path: Path, folder: Path, *overrides: str, model: str = "tiny", step: int = 8) -> dict:
    """Two steps of the public command on an embedded model; the run's record."""
    argv = [
        *(f"settings.load={path}", f"model={model}", "data.resolution=64", f"data.buckets.step={step}"),
        *("trainer.max_steps=2", "trainer.precision=32-true", "callbacks.progress.enabled=false"),
        *("callbacks.samples.enabled=false", "output.folder=null"),
        *(f"data.cache_folder={folder}/cache", f"hydra.run.dir={folder}/run"),
        *("model.dtype=fp32", *overrides),
    ]
    train_py(*argv)
    assert list((folder / "run").glob("*.safetensors"))
    return json.loads((folder / "run" / "run.json").read_text("utf8"))
