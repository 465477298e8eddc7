"""Identifies a base model quickly: before torch is imported, and however large the file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from loralab.errors import Problem, UserError, user_error
from loralab.files import cache_folder
from loralab.models import registry
from loralab.models.checkpoint import Contents, examine
from loralab.models.registry import FAMILIES, Row
from loralab.models.row import VAE_STARTS, latent_channels
from loralab.packages import missing
from loralab.urls import is_url, plain, unusable_url

ADAPTER_PARTS = ("lora_", "lora.down", "hada_w1", "lokr_w1")
"""What is in the names of an adapter's tensors, and in no model's: those of the kohya layout all begin with lora_."""
VAE_READS = ("decoder.conv_in.weight", "decoder.conv1.weight")
"""How the name of the tensor ends by which a VAE reads latents; the second is that of VAEs of videos."""
TOKENIZERS = ("tokenizer", "t5_tokenizer")
"""Their settings, which are also their folders in a whole model."""
SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True, slots=True)
class Found:
    """What a base declares about itself; None: nothing."""

    family: str
    prediction_type: str | None = None
    zero_terminal_snr: bool | None = None
    latent_channels: int | None = None


def check(model: Mapping[str, Any]) -> list[Problem]:
    """What is wrong with a composed `model` node, as far as files show; a model that is not on disk is downloaded
    from the Hub when it is loaded."""
    problems: list[Problem] = []
    if (row := registry.of_model(model)) and isinstance(base := model.get("base"), str):
        says = model.get("prediction_type") is None
        needs = [part for part in (*row.parts, "vae") if model.get(part) is None]
        problems += _problems(lambda: identify(base, row.name, needs, says_what=says))
    if isinstance(vae := model.get("vae"), str):
        problems += _problems(lambda: on_disk(vae, "model.vae", look_at_vae))
    if isinstance(encoder := model.get("text_encoder"), str):
        problems += _problems(lambda: on_disk(encoder, "model.text_encoder", look_at_text_encoder))
    if not problems and vae and row:
        problems += _problems(lambda: _fits(model["base"], vae))
    for kind in TOKENIZERS:
        if isinstance(tokenizer := model.get(kind), str):
            look = partial(look_at_tokenizer, kind=kind)
            problems += _problems(partial(on_disk, tokenizer, f"model.{kind}", look))
    if model.get("attention") == "xformers":
        problems += missing("model.attention", "xformers")
    if model.get("quantize") == "nf4":
        problems += missing("model.quantize", "bitsandbytes")
    return problems


def _fits(base: str, vae: str) -> None:
    """Raises UserError where both are on disk, and the VAE has not as many latent channels as the base model reads."""
    paths = on_disk(base, "model.base", lambda _: None), on_disk(vae, "model.vae", lambda _: None)
    if paths[0] is None or paths[1] is None:
        return
    reads, has = look_at_base(paths[0], needs=()).latent_channels, _vae_channels(paths[1])
    if None not in (reads, has) and reads != has:
        found = f"{vae} has {has} latent channels, but {base} reads {reads}"
        raise user_error("model.vae", found, "use the VAE that the base model was trained with")


def _vae_channels(path: Path) -> int | None:
    if path.is_dir():
        folder = path / "vae" if (path / "vae").is_dir() else path
        return latent_channels(_json(folder / "config.json", "model.vae"))
    shapes = examine(path, "model.vae").shapes
    return next((shape[1] for name, shape in shapes.items() if name.endswith(VAE_READS)), None)


def predicted(model: Mapping[str, Any]) -> str | None:
    """What the model of a composed `model` node predicts; None where only the loaded model tells."""
    row = registry.of_model(model)
    if row is None or isinstance(model.get("prediction_type"), str):
        return model.get("prediction_type")
    if len(row.predictions) == 1 or not isinstance(base := model.get("base"), str):
        return row.predictions[0]
    try:
        path = on_disk(base, "model.base", look_at_base)
        return path and (look_at_base(path).prediction_type or row.predictions[0])
    except UserError:
        return None  # reported by check


def _problems(call: Callable[[], object]) -> tuple[Problem, ...]:
    try:
        call()
    except UserError as error:
        return error.problems
    return ()


def identify(base: str, family: str, needs: Collection[str] | None = None, says_what: bool = True) -> Found:
    """What the base at a path or hub id is. Raises UserError where it cannot be used as a model of `family`.

    `needs`: the parts, and the "vae", that are to be taken from it; None: all. `says_what`: whether its declared
    prediction type is used.
    """

    def look(path: Path) -> Found:
        return look_at_base(path, needs, family=family)

    path = on_disk(base, "model.base", look)
    if path is None:
        return Found(family)
    found = look(path)
    if found.family != family:
        other = FAMILIES[found.family]
        remedy = f"use {' or '.join(f'model={option}' for option in other.options)}"
        raise user_error("model.base", f"{path} is {other.title}, not {FAMILIES[family].title}", remedy)
    predictions = FAMILIES[family].predictions
    if says_what and found.prediction_type not in (None, *predictions):
        words = f"{path} predicts '{found.prediction_type}' (see its scheduler_config.json), which is not supported"
        remedy = f"if that is wrong, set model.prediction_type={' or '.join(predictions)}"
        raise user_error("model.prediction_type", words, remedy)
    return found


def look_at_base(
    path: Path, needs: Collection[str] | None = None, setting: str = "model.base", family: str | None = None
) -> Found:
    """What a folder or file is. Raises UserError naming `setting` where it is no base model, or where one of `family`
    (None: of any) has not all parts, and the "vae", that are needed of it; None: all."""
    return (_folder if path.is_dir() else _file)(path, needs, setting, family)


def look_at_vae(path: Path) -> None:
    """Raises UserError where a path contains no VAE."""
    if path.is_dir():
        _component(path / "vae" if (path / "vae").is_dir() else path, "model.vae")
    elif not any(name.endswith(VAE_READS) for name in examine(path, "model.vae").names):
        raise user_error(
            "model.vae", f"{path} contains no VAE", "give an AutoencoderKL: a file, a diffusers folder or a Hub id"
        )


def look_at_text_encoder(path: Path) -> None:
    """Raises UserError where a path contains no language model."""
    if path.is_dir():
        _component(path / "text_encoder" if (path / "text_encoder").is_dir() else path, "model.text_encoder")
        return
    inside = examine(path, "model.text_encoder")
    if said := _packed(inside):
        raise user_error("model.text_encoder", f"{path} is {said[0]}", said[1])
    if not any("embed_tokens." in name for name in inside.names):
        remedy = "give a file, a folder or a Hub id of the language model that the base model reads"
        raise user_error("model.text_encoder", f"{path} contains no text encoder", remedy)


def look_at_tokenizer(path: Path, kind: str = "tokenizer") -> None:
    """Raises UserError where a path contains no tokenizer; kind: its setting, and its folder in a whole model."""
    folder = path / kind if (path / kind).is_dir() else path
    if not any((folder / name).is_file() for name in ("vocab.json", "tokenizer.json")):
        raise user_error(
            f"model.{kind}",
            f"{path} contains no tokenizer",
            "give a folder with tokenizer.json, or vocab.json and merges.txt",
        )


def on_disk(path: str, setting: str, look: Callable[[Path], object]) -> Path | None:
    """Where a path is, or the cached copy of a Hub id; None for a Hub id that is still to be downloaded.

    `look` raises UserError where what is there cannot be used. Raises that of a path, one for a path that is not
    found, and one for a Hub id that is not completely cached while offline.
    """
    local = Path(plain(path)).expanduser()
    if is_url(plain(path)):
        return copied(path, setting, look)
    if os.path.exists(local):
        look(local)
        return local
    if not is_hub_id(path):
        raise user_error(setting, f"'{path}' was not found", "check the path; relative paths start at " + os.getcwd())
    cached = cached_snapshot(path)
    try:
        if cached is not None:
            look(cached)
            return cached
    except UserError:
        pass  # not all of it was downloaded
    if any(os.environ.get(name, "0").lower() not in ("0", "", "false") for name in OFFLINE):
        raise user_error(
            setting,
            f"'{path}' not found in the Hub's cache, and downloads are off (offline mode)",
            "give a local path, or download it once while online",
        )
    return None


def copied(url: str, setting: str, look: Callable[[Path], object]) -> Path | None:
    """The copy of a model on another machine that was downloaded last, where there is one; see `hub.locate`."""
    if found := unusable_url(url):
        raise user_error(setting, *found)
    try:
        copies = sorted(copies_of(url).iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    except OSError:
        return None
    copy = next((inside(folder, url) for folder in reversed(copies) if not folder.name.startswith(".")), None)
    if copy is not None:
        look(copy)
    return copy


def copies_of(url: str) -> Path:
    """The folder with the copies of a model; each is named by the state of the files that it was made from."""
    name = blake2b(plain(url).encode(), digest_size=8).hexdigest()
    return cache_folder() / "models" / f"{plain(url).rpartition('/')[2]}-{name}"


def inside(folder: Path, url: str) -> Path:
    """The file or the folder in a copy that stands for the URL."""
    file = folder / plain(url).rpartition("/")[2]
    return file if file.is_file() else folder


OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def is_hub_id(path: str) -> bool:
    """Whether a path that is not on disk may be meant as owner/name on the Hub."""
    owner, _, _ = path.partition("/")
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", path)) and not path.endswith(SUFFIXES) and not Path(owner).is_dir()


def cached_snapshot(repository: str) -> Path | None:
    """The folder of a Hub repository in the local cache."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    folder = cache / f"models--{repository.replace('/', '--')}"
    reference = folder / "refs" / "main"
    snapshot = folder / "snapshots" / reference.read_text().strip() if reference.is_file() else None
    return snapshot if snapshot is not None and snapshot.is_dir() else None


# diffusers folders


def _folder(path: Path, needs: Collection[str] | None, setting: str, family: str | None) -> Found:
    denoisers = {name: path / name for name in dict.fromkeys(row.denoiser for row in FAMILIES.values())}
    there = [name for name, folder in denoisers.items() if (folder / "config.json").is_file()]
    if not there:
        inside = sorted(p.name for p in path.iterdir() if p.suffix in SUFFIXES)
        configs = " or ".join(f"{name}/config.json" for name in denoisers)
        remedy = f"did you mean the file {path / inside[0]}?" if inside else f"give a folder with {configs}"
        raise user_error(setting, f"{path} is not a diffusers folder", remedy)
    config = _component(denoisers[there[0]], setting)
    rows = (row for row in FAMILIES.values() if row.denoiser == there[0])
    row = next((row for row in rows if row.config.items() <= config.items()), None)
    if row is None:
        found = f"{path} is {config.get('_class_name', 'a model')}, which is not supported"
        raise user_error(setting, found, f"use {registry.named()}")
    if problem := row.folder_foreign(config):
        raise user_error(setting, f"{path} is {problem[0]}", problem[1])
    for name in (*row.text_encoders, "vae") if family in (None, row.name) else ():
        if needs is None or name in needs:
            _component(path / name, setting)
    scheduler = path / "scheduler" / "scheduler_config.json"
    says = _json(scheduler, setting) if scheduler.is_file() else {}
    channels = config.get("in_channels") if row.file_latents else None
    return Found(row.name, _prediction(says), says.get("rescale_betas_zero_snr"), channels)


def _prediction(scheduler: Mapping[str, Any]) -> str | None:
    """What a config of a diffusers scheduler says that the model predicts."""
    is_flow = str(scheduler.get("_class_name")).startswith("FlowMatch") or scheduler.get("use_flow_sigmas")
    said = scheduler.get("prediction_type")
    return "flow" if is_flow or said == "flow_prediction" else said


def _component(folder: Path, setting: str) -> dict[str, Any]:
    """The config of a component, after a look at its weights."""
    if not (folder / "config.json").is_file():
        raise user_error(setting, f"{folder / 'config.json'} not found", "check that the download is complete")
    for name in weight_files(folder, setting):
        examine(folder / name, setting)
    return _json(folder / "config.json", setting)


def weight_files(folder: Path, setting: str) -> list[str]:
    """The files that hold a component's weights."""
    chosen = choose_weights(path.name for path in folder.iterdir())
    if chosen is None:
        raise user_error(setting, f"{folder} contains no weights", "check that the download is complete")
    if not chosen.endswith(".json"):
        return [chosen]
    return sorted(set(_json(folder / chosen, setting)["weight_map"].values()))


def weights_size(base: str | None) -> int:
    """Bytes of the largest file, or part of several files, of a base model; 0 where it is not on this disk."""
    path = on_disk(base, "model.base", partial(look_at_base, needs=())) if base else None
    if path is None or path.is_file():
        return path.stat().st_size if path else 0
    parts = [folder for folder in path.iterdir() if (folder / "config.json").is_file()]
    names = {part: choose_weights(file.name for file in part.iterdir()) for part in parts}
    found = [(part, weight_files(part, "model.base")) for part, name in names.items() if name]
    return max((sum((part / name).stat().st_size for name in files) for part, files in found), default=0)


def choose_weights(names: Iterable[str]) -> str | None:
    """Which of a component's file names to load, safetensors and full precision first; an index names its shards."""
    names = set(names)
    return next((name for name in _candidates() if name in names), None)


def _candidates() -> Iterator[str]:
    for suffix, stems in (
        ("safetensors", ("diffusion_pytorch_model", "model")),
        ("bin", ("diffusion_pytorch_model", "pytorch_model")),
    ):
        for variant in ("", ".fp16"):
            for stem in stems:
                yield f"{stem}{variant}.{suffix}"
                yield f"{stem}.{suffix}.index{variant}.json"


def _json(path: Path, setting: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise user_error(setting, f"{path} is damaged", "download or copy the file again")
    return found


# single files


def _file(path: Path, needs: Collection[str] | None, setting: str, family: str | None) -> Found:
    inside = whole_names(examine(path, setting))
    if problem := _foreign(inside):
        raise user_error(setting, f"{path} is {problem[0]}", problem[1])
    row = _family(inside)
    if row is None:
        raise user_error(
            setting,
            f"{path} is not an {registry.named()} model",
            "use a single file in the original layout, or a diffusers folder",
        )
    if family in (None, row.name) and (lacks := _lacking(inside, row, needs)):
        words = {part: known.words for part, known in row.parts.items()} | {"vae": "VAE"}
        settings = [f"model.{part}=FILE" for part in lacks]
        remedy = f"set {' and '.join(settings)}" if lacks == ["vae"] or row.in_parts else "use a complete checkpoint"
        raise user_error(setting, f"{path} has no {' and no '.join(words[part] for part in lacks)}", remedy)
    channels = next(iter(inside.shapes.get(row.file_latents, ())[1:2]), None)
    marked = "v_prediction" if "v_pred" in inside.names else None
    predicts = "flow" if channels in row.flow_channels else marked
    return Found(row.name, predicts, True if "ztsnr" in inside.names else None, channels)


def _lacking(inside: Contents, row: Row, needs: Collection[str] | None) -> list[str]:
    """The parts, and the "vae", that are needed of a single file and not in it. Of text encoders in a folder of their
    own, one shows the others."""
    starts = {part: f"{start.partition('.')[0]}." for part, start in row.file_parts.items()}
    texts = [part for part in row.text_encoders if starts[part] != starts[row.denoiser]]
    lacks = [] if _any(inside, *(starts[part] for part in texts)) else texts[:1]
    lacks += [] if _any(inside, starts["vae"], *VAE_STARTS) else ["vae"]
    return [part for part in lacks if needs is None or part in needs]


def whole_names(inside: Contents) -> Contents:
    """The contents of a single file with the names that it has in a file of a whole model, if it is of a part alone."""
    for row in FAMILIES.values():
        usual, start = row.file_parts.get(row.denoiser, ""), row.denoiser_start(inside.names)
        if start not in (None, usual):
            names = {name: usual + name.removeprefix(start) for name in inside.names}
            shapes = {names[name]: shape for name, shape in inside.shapes.items()}
            return replace(inside, names=set(names.values()), shapes=shapes)
    return inside


def _packed(inside: Contents) -> tuple[str, str] | None:
    """What a file is whose weights are numbers with scales, and what to do."""
    packed = any(name.endswith(("scale_weight", "weight_scale", ".comfy_quant", "scaled_fp8")) for name in inside.names)
    return ("quantised with scales, which is not supported", "use the file in bf16 or fp16") if packed else None


def _any(inside: Contents, *prefixes: str) -> bool:
    return any(name.startswith(prefixes) for name in inside.names)


def _with_denoiser(inside: Contents) -> list[Row]:
    """The families whose denoiser's names a single file has."""
    return [row for row in FAMILIES.values() if row.file_parts and _any(inside, row.file_parts[row.denoiser])]


def _family(inside: Contents) -> Row | None:
    rows = _with_denoiser(inside)
    by_width = (row for row in rows if row.context in inside.shapes.get(row.file_context, ())[1:])
    return next((row for row in rows if _any(inside, *row.file_has)), None) or next(by_width, None)


def _foreign(inside: Contents) -> tuple[str, str] | None:
    """What a file is that is not a base model, and what to do."""
    if any(part in name for name in inside.names for part in ADAPTER_PARTS):
        return "an adapter, not a base model", "to start from it, set adapter.weights=FILE"
    if said := _packed(inside):
        return said
    rows = [row] if (row := _family(inside)) else FAMILIES.values()
    if said := next(filter(None, (row.file_foreign(inside) for row in rows)), None):
        return said
    if not _with_denoiser(inside):
        if _any(inside, *(row.file_parts["vae"] for row in FAMILIES.values() if row.file_parts), *VAE_READS):
            return "a VAE", "to use it, set model.vae=FILE"
        if _any(inside, "down_blocks."):
            return "one component of a diffusers model", "give the folder that holds model_index.json"
    return None
