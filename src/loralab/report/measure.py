"""Measures each training image with the base model, without and with the run's adapter and the image's caption.

At the same timesteps and with the same noise for all, L being the loss of the prediction:
- learnt = L(adapter, caption) / L(base, caption): what the adapter has changed for this image; below 1 is learnt;
- fit = L(base, caption) / L(base, no caption): how far the caption helps the base model to recognise the image, as in
  a diffusion classifier (Li et al. 2023, arXiv 2303.16203). Above 1 it misleads: the caption is probably wrong. Words
  that the base model does not know, as a new trigger word, say nothing here.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loralab.command.overrides import plain_value
from loralab.data.sources.mounts import absolute
from loralab.errors import Problem, UserError, user_error
from loralab.files import as_json, digest_file
from loralab.places import full
from loralab.progress import progress
from loralab.report.run import Run, glance
from loralab.training.loss_log import FOLDER
from loralab.writing import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

    from loralab.adapters.inject import AdapterSet
    from loralab.models.family import Family
    from loralab.types import Batch

FILE = "measured.json"
Measured = dict[tuple[str, str], tuple[list[float], list[float]]]
"""Path and caption of an image, or its digest and caption → the logarithms of learnt and of fit at each timestep."""
MOVED = ("data.folder", "data.reg_folder", "data.mask_folder", "data.metadata", "model.base")
"""Settings that may name other places than those of the run."""


def places(overrides: list[str]) -> dict[str, str]:
    """Where files are now, by the settings that name them. Raises a UserError for other overrides."""
    given = {key.lstrip("+"): value for key, _, value in (override.partition("=") for override in overrides)}
    if strange := [key for key in given if key not in MOVED]:
        raise UserError(*(Problem(key, "has no effect here", f"valid: {', '.join(MOVED)}") for key in strange))
    return {key: str(full(str(plain_value(f"{key}={value}")))) for key, value in given.items()}


def measure(run: Run, timesteps: int, allow: list[str], moved: dict[str, str]) -> None:
    """Writes `losses/measured.json`. moved: see `places`.

    Raises a UserError where adapter, base model or images are not found.
    """
    adapter = _adapter(run)
    found: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for images, values in _losses(run, adapter, timesteps, allow, moved):
        for key, row in zip(images, values, strict=True):
            found.setdefault(key, []).append(row)
    rows = []
    for (path, digest, caption), several in found.items():
        learnt, fit = np.mean(several, 0).round(5).tolist()  # over the resolutions
        rows.append({"path": path, "digest": digest, "caption": caption, "learnt": learnt, "fit": fit})
    with atomic_path(run.folder / FOLDER / FILE, "RUN") as beside:
        beside.write_text(
            as_json({"adapter": adapter.name, "digest": digest_file(adapter), "images": rows}), encoding="utf8"
        )


class OutOfDate(Exception):
    """The adapter file is not the one that was measured: the run went on."""


def read(run: Path) -> Measured:
    """What was measured, {} where nothing was.

    Raises OutOfDate; a ValueError, KeyError or TypeError where it is damaged.
    """
    try:
        found = json.loads((run / FOLDER / FILE).read_text(encoding="utf8"))
    except FileNotFoundError:
        return {}
    digests = glance(run).facts.get("digests")
    if isinstance(digests, dict) and digests.get(found["adapter"], found["digest"]) != found["digest"]:
        raise OutOfDate
    rows = [(row, (row["learnt"], row["fit"])) for row in found["images"]]
    by_content = {(row["digest"], row["caption"]): values for row, values in rows if row.get("digest")}
    return by_content | {(row["path"], row["caption"]): values for row, values in rows}


def _adapter(run: Run) -> Path:
    """The run's last adapter file. Raises a UserError where there is none."""
    files = [Path(file) for file in map(str, run.listed("files")) if os.path.isfile(file)]
    files = files or sorted(run.folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise user_error(str(run.folder), "contains no adapter file", "wait until the run has saved one")
    return files[-1].absolute()


def _losses(run: Run, adapter: Path, timesteps: int, allow: list[str], moved: dict[str, str]) -> Any:
    """For each batch, the path, digest and caption of its images; their logarithms of learnt and fit (B, 2, K)."""
    import torch
    from omegaconf import OmegaConf

    from loralab.adapters import file
    from loralab.adapters.attach import attach
    from loralab.command.rerun import of_folder
    from loralab.report.rerun import stand_where_it_stood
    from loralab.run import instantiate

    cfg, folder = of_folder(run.folder.absolute(), allow), run.folder.absolute()
    for key, place in moved.items():
        OmegaConf.update(cfg, key, place)
    stand_where_it_stood(folder)
    data = instantiate(cfg.data)(seed=cfg.seed, cache=instantiate(cfg.data.cache))
    family: Family = instantiate(cfg.model)
    data.attach(family)
    device = torch.accelerator.current_accelerator(check_available=True)
    device = torch.device("cpu") if device is None or cfg.trainer.accelerator == "cpu" else device
    for module in (*family.parts().values(), family.vae, family.process):
        module.to(device)
    table = {part: family.targets(part) for part in family.parts()}
    adapters = attach(family, file.load(adapter, table, str(adapter)).groups, str(adapter))
    half = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(cfg.trainer.precision)
    times = instantiate(cfg.objective.timesteps).quantile((torch.arange(timesteps) + 0.5).double() / timesteps)
    loader = data.each_image()
    with progress("measuring", len(loader.dataset), "images") as advance:  # type: ignore[arg-type]
        for batch in loader:
            batch = batch.to(device)
            with torch.no_grad(), torch.autocast(device.type, half, enabled=half is not None):
                values = _of_batch(family, adapters, batch, times)
            advance(len(batch))
            yield [(absolute(item.path), item.digest, item.caption) for item in batch.items], values


def _of_batch(family: Family, adapters: AdapterSet, batch: Batch, times: Tensor) -> np.ndarray:
    """(B, 2, K)"""
    import torch

    from loralab.diffusion.loss import L2
    from loralab.diffusion.noise import normal
    from loralab.diffusion.objective import Objective
    from loralab.diffusion.timesteps import Uniform

    assert batch.pixels is not None, "each_image uses no cache"
    shape = family.latent_shape(*batch.pixels.shape[-2:])
    latents = family.latents(batch, normal(0, "vae", batch.draws, shape, family.device))
    plain = Objective({}, Uniform(), L2(), {})

    def logs(captions: list[str], with_adapter: bool) -> Tensor:
        """(B, K)"""
        with adapters.enabled(with_adapter):
            known = family.encode_text(captions, batch)
            losses = [
                plain(
                    lambda noisy, steps: family.predict(noisy, steps, known),
                    latents,
                    family.process,
                    batch,
                    seed,
                    timesteps=time.expand(len(batch)),
                ).unweighted
                for seed, time in enumerate(times)
            ]
        return torch.stack(losses, 1).log().cpu()

    base = logs(batch.captions, False)
    none = logs([""] * len(batch), False)
    return torch.stack((logs(batch.captions, True) - base, base - none), 1).numpy()
