"""Base models from disk or Hub, diffusers folders and single files: what of them is where, a family's row says."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from loralab.diffusion.process import Process, process
from loralab.errors import user_error
from loralab.models import hub, weights
from loralab.models.checkpointing import checkpoint_gradients
from loralab.models.digests import origin
from loralab.models.frozen import Quantize
from loralab.models.offload import Offload, chosen
from loralab.models.onednn import Kernels, set_kernels
from loralab.models.probe import identify, look_at_base, look_at_text_encoder, look_at_vae, on_disk
from loralab.models.quantize import quantize as quantize_layers
from loralab.models.registry import FAMILIES
from loralab.models.row import Config, Row
from loralab.models.vae import diffusers_vae, vae_class
from loralab.progress import progress

log = logging.getLogger(__name__)

DTYPES = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
LOOKS = {"vae": look_at_vae, "text_encoder": look_at_text_encoder}


@dataclass(slots=True)
class Base:
    """A loaded base model, before the run's settings are applied."""

    row: Row
    path: str
    """As the user gave it."""
    modules: dict[str, Any]
    """By part, and the "vae"."""
    scheduler: Mapping[str, Any]
    """Config of the diffusers scheduler it is sampled with."""
    process: Process
    """The way from an image to noise, and what the model predicts."""
    folder: Path | None = None
    """Where it is, if it is a diffusers folder."""
    origins: dict[str, str | None] = field(default_factory=dict)
    """What the weights of each part were made from (see digests)."""

    @property
    def denoiser(self) -> Any:
        return self.modules[self.row.denoiser]

    @property
    def vae(self) -> Any:
        return self.modules["vae"]

    @property
    def text_encoders(self) -> dict[str, Any]:
        return {part: self.modules[part] for part in self.row.text_encoders}


_has_weights = ContextVar("has_weights", default=True)


@contextmanager
def without_weights() -> Iterator[None]:
    """Within it `load_base` reads configs alone, downloads nothing, and leaves the weights as they are initialised: for
    a FakeTensorMode, under which they take no memory."""
    before = _has_weights.set(False)
    try:
        yield
    finally:
        _has_weights.reset(before)


def has_weights() -> bool:
    """False within `without_weights`."""
    return _has_weights.get()


def load_base(
    family: str,
    base: str,
    vae: str | None = None,
    prediction_type: str | None = None,
    zero_terminal_snr: bool | None = None,
    dtype: str = "fp32",
    text_encoder: str | None = None,
) -> Base:
    """The base model of a family at a path or Hub id, on the CPU; the VAE in fp32.

    vae, text_encoder: others, paths or Hub ids. prediction_type, zero_terminal_snr: None takes what the base declares.
    """
    row, others = FAMILIES[family], {"text_encoder": text_encoder, "vae": vae}
    if not _has_weights.get():
        return _shapes(row, base, others, dtype)
    parts = [part for part in (*row.parts, "vae") if others.get(part) is None]
    path = hub.locate(
        base, "model.base", lambda path: look_at_base(path, parts, family=family), hub.folders(row, parts)
    )
    found = identify(str(path), family, parts, says_what=prediction_type is None)
    origins = {part: _origin(path / part if path.is_dir() else path, row, part, dtype) for part in parts}
    modules = (read_folder if path.is_dir() else read_single_file)(path, row, parts, DTYPES[dtype])
    for part, place in others.items():
        if place is not None:
            other = hub.locate(place, f"model.{part}", LOOKS[part], (part, ""))
            origins[part] = _origin(other, row, part, dtype)
            modules[part] = load_part(other, row, part, DTYPES[dtype])
    predicts = _settled("prediction_type", prediction_type, found.prediction_type, row.predictions[0])
    ends_in_noise = _settled("zero_terminal_snr", zero_terminal_snr, found.zero_terminal_snr, False)
    says = path / "scheduler" / "scheduler_config.json"
    scheduler = json.loads(says.read_text()) if says.is_file() else row.scheduler
    goes = process(predicts, ends_in_noise)
    return Base(row, base, modules, scheduler, goes, path if path.is_dir() else None, origins)


def _origin(path: Path, row: Row, part: str, dtype: str) -> str | None:
    """Of the weights of a part, read from a file or a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    return origin(files, row.name, part, "fp32" if part == "vae" else dtype)


def _shapes(row: Row, base: str, others: Mapping[str, str | None], dtype: str) -> Base:
    """A base model by its configs, or where these are not on this disk by those of its family."""
    path = on_disk(base, "model.base", partial(look_at_base, needs=()))
    folder = path if path is not None and path.is_dir() else None
    modules = {}
    for part in (*row.parts, "vae"):
        place = others.get(part)
        inside = folder if place is None else on_disk(place, f"model.{part}", LOOKS[part])
        config = _config(inside, part) if inside is not None else None
        modules[part] = _shape(row, part, config or row.architecture[part], dtype)
    return Base(row, base, modules, row.scheduler, process(row.predictions[0], False), folder)


def _config(place: Path, part: str) -> Config | None:
    """That of a part in a folder; None where there is none."""
    file = _part_folder(place, part) / "config.json"
    return json.loads(file.read_text()) if file.is_file() else None


def _part_folder(place: Path, part: str) -> Path:
    """Of a part, in the folder of a whole model or in one of its own."""
    return place / part if (place / part).is_dir() else place


def _shape(row: Row, part: str, config: Config, dtype: str) -> Any:
    """A module whose weights are not initialised."""
    wanted = torch.float32 if part == "vae" else DTYPES[dtype]
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in empty(row, part, config).state_dict().items()}
    return build(row, part, config, {name: torch.empty(shape, dtype=wanted) for name, shape in shapes.items()}, wanted)


def random_base(row: Row, path: str, seed: int, configs: Mapping[str, Config], goes: Process, dtype: str) -> Base:
    """A model of a family, with these configs by part and weights drawn from a seed; path: what it is called."""
    parts = (*row.text_encoders, row.denoiser, "vae")
    if not _has_weights.get():
        modules = {part: _shape(row, part, configs[part], dtype) for part in parts}
        return Base(row, path, modules, row.scheduler, goes)
    modules = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for part in parts:
            made = empty(row, part, configs[part])
            # diffusers' own `to` warns of modules that should stay in fp32, though there are none
            modules[part] = nn.Module.to(made, torch.float32 if part == "vae" else DTYPES[dtype]).eval()
    return Base(row, path, modules, row.scheduler, goes)


def _settled(setting: str, wanted: Any, found: Any, default: Any) -> Any:
    """The setting, else what the base declares, else the default."""
    if wanted is None:
        return default if found is None else found
    if found is not None and found != wanted:
        log.warning("model.%s is %s, but the base model says %s; using the setting", setting, wanted, found)
    return wanted


def prepare(
    base: Base,
    kernels: Kernels,
    gradient_checkpointing: bool | int,
    quantize: Quantize | None,
    dtype: str,
    offload: float = 0,
) -> None:
    """Sets how the modules compute, but for their attention."""
    if quantize is not None:
        base.origins.clear()  # the weights are no longer those of the files
    for module in (base.denoiser, *base.text_encoders.values()):
        if quantize is not None:
            quantize_layers(module, quantize, DTYPES[dtype])
        set_kernels(module, kernels)
    if kernels == "auto":
        from loralab.models.fused import set_fused  # it imports models of diffusers

        set_fused(base.denoiser)
    if gradient_checkpointing:
        checkpoint_gradients(base.denoiser, base.text_encoders.values(), gradient_checkpointing)
    if offload:
        Offload(chosen(base.denoiser, offload))


def empty(row: Row, part: str, config: Config) -> Any:
    """The module of a part, or the "vae", before it gets its weights."""
    cls = resolve_name(vae_class(config) if part == "vae" else row.parts[part].module)
    return cls.from_config(config) if hasattr(cls, "from_config") else cls(cls.config_class.from_dict(config))


def build(
    row: Row, part: str, config: Config, state: dict[str, Tensor], dtype: torch.dtype, setting: str = "model.base"
) -> Any:
    """The module of a part, or the "vae", around given tensors, which are used as they are where they have the right
    type.

    Nothing is initialised first and nothing is held twice; `state` is emptied.
    """
    with WithoutWeights():
        model = empty(row, part, config)
    names = _tied(model)
    wanted = {name: tensor for name, tensor in model.state_dict().items() if names.get(name, name) == name}
    state = diffusers_vae(state, config) if part == "vae" else _named(state, names)
    missing = sorted(set(wanted) - set(state))
    wrong = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if missing or wrong:
        name = (missing + wrong)[0]
        found = f"no {name}" if missing else f"{name} has the shape {tuple(state[name].shape)}"
        count = len(missing) + len(wrong)
        raise user_error(
            setting,
            f"its {type(model).__name__} has missing or mismatched tensors: {found} (and {count - 1} more)",
            "check that the file is complete and of this model family",
        )
    size = sum(state[name].nbytes for name in wanted)
    with progress(f"loading {type(model).__name__}", size // 2**20, "MB") as advance:
        tensors = {}
        for name in wanted:
            advance(state[name].nbytes / 2**20)
            tensor = state.pop(name)
            tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    model.load_state_dict(tensors | {name: tensors[first] for name, first in names.items()}, assign=True)
    return model.eval()


class WithoutWeights(TorchFunctionMode):
    """Within it modules are made whose weights take no memory and have no values. What is no weight is there, such as
    the frequencies of rotary embeddings: tensors of values are made as usual, and weights start as empty ones."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _tied(model: nn.Module) -> dict[str, str]:
    """Each name of a parameter → the first of its names: a weight that is used twice is stored once, under either."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(p), name) for name, p in model.named_parameters(remove_duplicate=False)}


def _named(state: dict[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Tensors by the first names of their parameters. Some versions of transformers keep layers of a text encoder under
    `text_model`, others don't; a language model with a head keeps them under `model`."""
    inside = {_inner(name): first for name, first in names.items()}
    return {inside.get(_inner(name), name): state.pop(name) for name in list(state)}


def _inner(name: str) -> str:
    return name.removeprefix("text_model.").removeprefix("model.")


def read_folder(path: Path, row: Row, parts: list[str], dtype: torch.dtype) -> dict[str, Any]:
    modules = {}
    for part in parts:
        config = json.loads((path / part / "config.json").read_text())
        state = weights.read_component(path / part, "model.base")
        modules[part] = build(row, part, config, state, torch.float32 if part == "vae" else dtype)
    return modules


def read_single_file(path: Path, row: Row, parts: list[str], dtype: torch.dtype) -> dict[str, Any]:
    state, modules = weights.read(path, "model.base"), {}
    usual, start = row.file_parts[row.denoiser], row.denoiser_start(state)
    if start not in (None, usual):  # the denoiser alone
        state = {usual + name.removeprefix(start): tensor for name, tensor in state.items()}
    configs = {part: row.file_config(row, part, _sizes(state)) for part in parts}
    for part, config in configs.items():
        tensors = row.file_tensors(row, part, state, config)
        modules[part] = build(row, part, config, tensors, torch.float32 if part == "vae" else dtype)
    return modules


def _sizes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def load_part(path: Path, row: Row, part: str, dtype: torch.dtype = torch.float32) -> Any:
    """A text encoder, or the "vae" in fp32, from a folder, of it or of a whole model, or from a file of its own."""
    setting = f"model.{part}"
    if path.is_dir():
        folder = _part_folder(path, part)
        config, state = json.loads((folder / "config.json").read_text()), weights.read_component(folder, setting)
    else:
        state = weights.read(path, setting)
        config = row.file_config(row, part, _sizes(state))
    return build(row, part, config, state, torch.float32 if part == "vae" else dtype, setting)
