"""An old settings file and what becomes of it when it is changed: what the tests of the parameters stand on."""

from __future__ import annotations

import contextlib
import io
import json
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from loralab import launch, run
from loralab.command.prepare import prepare, refuse
from loralab.errors import UserError
from loralab.importers.expand import expand
from loralab.schema.compose import Composed, compose, values, without_hydra
from loralab.shared import Shared
from loralab.stages import Stages
from loralab.training.quiet import quiet
from loralab.types import Draw, Place

Change = dict[str, Any]
"""Old names with the values that a row gives them."""
QUIET = ("callbacks.progress.enabled=false", "callbacks.samples.enabled=false")
"""What every run here is started with, too."""


def write_images(root: Path) -> None:
    """Three pictures in 2_star, one of them without a caption file, one picture outside; one for regularisation."""
    random = Random(0)
    for name, size, caption in (
        ("images/2_star/a.png", (64, 64), "sks, red, round, small, bright, new"),
        ("images/2_star/b.png", (256, 64), "sks, blue, wide, flat, dark, old"),
        ("images/2_star/c.png", (64, 64), None),
        ("images/d.png", (64, 88), "sks, green, tall, thin, grey, odd"),
        ("reg/1_shape/e.png", (64, 64), "shape, black"),
        ("others/5_dot/f.png", (64, 64), "dot"),
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", size, random.randbytes(3 * size[0] * size[1])).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption)
            path.with_suffix(".tags").write_text("from another file")


@dataclass
class Run:
    """What a training left behind."""

    folder: Path
    output: Path
    name: str
    said: str

    @property
    def file(self) -> Path:
        return self.output / f"{self.name}.safetensors"

    @property
    def bytes(self) -> bytes:
        return self.file.read_bytes()

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.file)

    @property
    def metadata(self) -> dict[str, str]:
        with safe_open(self.file, "pt") as file:
            return file.metadata() or {}

    @property
    def facts(self) -> dict:
        return json.loads((self.folder / "run.json").read_text())

    def of(self, part: str, ending: str = "") -> dict[str, torch.Tensor]:
        """The tensors of a part (unet, te), those that are called so at the end."""
        return {k: t for k, t in self.tensors.items() if k.startswith(f"lora_{part}_") and k.endswith(ending)}

    def moved(self, part: str) -> bool:
        """Whether an adapter of a part has left its start."""
        return any(bool(tensor.any()) for tensor in self.of(part, "lora_up.weight").values())


def close(one: Run, other: Run, atol: float) -> None:
    """Two runs that may differ by rounding only."""
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert torch.allclose(tensor, other.tensors[name], atol=atol), name


@dataclass
class Lab:
    """An old settings file, changed row by row. What a change composes to and its training are kept for other rows."""

    root: Path
    base: Path
    configs: dict[str, Composed] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    families: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def usual(self) -> Change:
        """The settings that a row changes: a training of two steps."""
        return {
            "base_model": str(self.base),
            "img_folder": str(self.root / "images"),
            "change_output_name": "it",
            "net_dim": 4,
            "alpha": 4,
            "scheduler": "constant",
            "learning_rate": 0.01,
            "batch_size": 2,
            "max_steps": 2,
            "train_resolution": 64,
            "min_bucket_resolution": 32,
            "max_bucket_resolution": 128,
            "bucket_reso_steps": 32,
            "max_clip_token_length": 75,
            "clip_skip": 1,
            "mixed_precision": "no",
            "save_precision": "fp32",
            "use_8bit_adam": False,
            "xformers": False,
            "cache_latents": False,
            "num_workers": 0,
            "persistent_workers": False,
        }

    def load(self, change: Change) -> str:
        """The override that loads the old file with this change."""
        path = self.root / "settings" / f"{abs(hash(_key(change)))}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**self.usual, **change}))
        return f"settings.load={path}"

    def config(self, change: Change, *overrides: str) -> DictConfig:
        """What the old file with this change, and overrides after it, compose to."""
        return without_hydra(self._composed(change, *overrides).cfg)

    def _composed(self, change: Change, *overrides: str) -> Composed:
        """That, the choices made, and the overrides as the file's and these."""
        key = _key(change, *overrides)
        if key not in self.configs:
            file = expand([self.load(change), *QUIET, *overrides])
            if file.problems:
                raise UserError(*file.problems)
            self.configs[key] = compose(file.overrides)
        return self.configs[key]

    def tree(self, change: Change, *overrides: str) -> dict:
        return self._composed(change, *overrides).tree

    def prepared(self, change: Change, *overrides: str) -> list[str]:
        """The overrides that training sees."""
        return prepare([self.load(change), *overrides])[0]

    def composed(self, *overrides: str) -> dict:
        """What overrides alone compose to, a settings file among them."""
        return compose(expand(list(overrides))[0]).tree

    def run(self, change: Change, *overrides: str, again: bool = False) -> Run:
        """Trains by the old file with this change; as `python train.py settings.load=FILE OVERRIDE…` does, in here."""
        key = _key(change, *overrides)
        if again or key not in self.runs:
            self.runs[key] = self._run(change, *overrides)
        return self.runs[key]

    def _run(self, change: Change, *overrides: str) -> Run:
        composed = self._composed(change, *overrides)
        refuse(composed)
        quiet()
        folder = self.fresh()
        with contextlib.redirect_stdout(io.StringIO()) as said:
            run.train(
                without_hydra(composed.cfg), folder, composed.overrides, composed.choices, Shared(), Stages(time.time())
            )
        return Run(folder, Path(composed.cfg.output.folder or folder), composed.cfg.output.name, said.getvalue())

    def command(self, *overrides: str) -> tuple[int, Path, str]:
        """`python train.py OVERRIDE…` in this process: its exit code, the run's folder, and what it printed."""
        folder = self.fresh()
        code, said = self.main(*overrides, *QUIET, f"hydra.run.dir={folder}")
        return code, folder, said

    @staticmethod
    def main(*argv: str) -> tuple[int, str]:
        """The command with these words: its exit code, and what it printed."""
        with (
            contextlib.redirect_stdout(io.StringIO()) as said,
            contextlib.redirect_stderr(said),
            pytest.raises(SystemExit) as stop,
        ):
            launch.main(list(argv))
        return int(stop.value.code or 0), said.getvalue()

    def refused(self, change: Change, *overrides: str) -> str:
        """What a user is told of a training that cannot be."""
        with pytest.raises(UserError) as error:
            self.run(change, *overrides)
        return str(error.value)

    def fresh(self) -> Path:
        """A folder for a run."""
        folder = self.root / "runs" / str(len(list((self.root / "runs").glob("*"))))
        folder.mkdir(parents=True)
        return folder

    def family(self, change: Change) -> Any:
        """The base model of the old file with this change."""
        node = self.config(change).model
        key = json.dumps(values(node), sort_keys=True)
        if key not in self.families:
            self.families[key] = run.instantiate(node)
        return self.families[key]

    def data(self, change: Change) -> Any:
        """The data module of the old file with this change."""
        config = self.config(change)
        data = run.instantiate(config.data, _partial_=False, seed=config.seed)
        data.attach(self.family({}))
        return data

    def samples(self, change: Change, epochs: int = 1, of: str = "") -> list[list[Any]]:
        """Every sample of each of the first epochs; those of a picture where one is named."""
        data = self.data(change)
        dataset = data.train_dataloader().dataset
        samples = [[dataset[Place(Draw(e, i))] for i in range(len(data.plan.draws))] for e in range(epochs)]
        return [[sample for sample in epoch if sample.item.path.endswith(of)] for epoch in samples]

    def captions(self, change: Change, epochs: int = 1) -> list[list[str]]:
        """The captions of each epoch, of pictures that have a caption file."""
        return [
            [sample.caption for sample in epoch if not sample.item.path.endswith("c.png")]
            for epoch in self.samples(change, epochs)
        ]

    def buckets(self, change: Change) -> set[tuple[int, int]]:
        """The buckets that the pictures are in."""
        return {sample.bucket for sample in self.samples(change)[0]}

    def optimizer(self, change: Change, parameter: torch.nn.Parameter | None = None) -> torch.optim.Optimizer:
        config = self.config(change)
        parameter = torch.nn.Parameter(torch.zeros(64, 64)) if parameter is None else parameter
        return run.instantiate(config.optimizer)([{"params": [parameter], "lr": config.optimizer.lr}])

    def curve(self, change: Change, steps: int = 100) -> list[float]:
        """The learning rate of each step of a run as long as this."""
        optimizer = self.optimizer(change)
        schedule = run.instantiate(self.config(change).scheduler)(optimizer, total_steps=steps)
        found = []
        for _ in range(steps):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found


def _key(change: Change, *overrides: str) -> str:
    return json.dumps([change, *overrides], sort_keys=True)
