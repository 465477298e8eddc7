"""The promise: the default command teaches the embedded models a star, and what they knew stays; a scorer sees that."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scripts.tiny_model import evaluate, pictures
from tests import ROOT

MODELS = {"tiny": (evaluate.SHIPPED, 0.8, 0.08), "tiny_flow": (evaluate.SHIPPED_FLOW, 0.7, 0.12)}
"""Option → its base, the share of stars after training, and how much less of the known shapes may be right."""
PROMPTS = "['sks star, red, blue background','sks star, yellow, black background','sks star, white, green background']"


def scores(run: Path) -> list[float]:
    """How like their prompts the pictures are: before and after training."""
    (file,) = run.rglob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload().Scalars("score/prompt")
    return [event.value for event in events]


def known(pipeline) -> float:
    """Share of prompts of known shapes, withheld from the pretraining, that are drawn right."""
    held_out = pictures.combinations(pictures.MAIN_SHAPES, held_out=True)
    return evaluate.shares(pipeline, held_out, seed=0)["shape"]


def stars(pipeline) -> float:
    """Share of prompts with the trigger word that show a star."""
    prompts = evaluate.star_prompts()
    return evaluate.star_share(evaluate.classifier.load().classify(evaluate.sample(pipeline, prompts, seed=0)))


def trained(folder: Path, model: str, seed: int) -> subprocess.Popen:
    """The default command, under way on one core."""
    where = (f"hydra.run.dir={folder / str(seed)}", f"data.cache_folder={folder / 'cache'}")
    words = (f"model={model}", f"seed={seed}", *where)
    command = [sys.executable, "train.py", *words, "report.scorer=shapes", f"callbacks.samples.prompts={PROMPTS}"]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("model", "seeds"), [pytest.param("tiny", (0,), marks=pytest.mark.ci), ("tiny", (0, 1)), ("tiny_flow", (0, 1))]
)
def test_the_default_command_teaches_a_star_and_keeps_the_rest(
    model: str, seeds: tuple[int, ...], tmp_path: Path
) -> None:
    shipped, learnt, lost = MODELS[model]
    runs = [trained(tmp_path, model, seed) for seed in seeds]
    assert not any(run.wait() for run in runs)
    base = evaluate.load(shipped)
    before, kept_before = stars(base), known(base)
    after, kept = [], []
    for seed in seeds:
        pipeline = evaluate.load(shipped)
        pipeline.load_lora_weights(tmp_path / str(seed) / "adapter.safetensors")
        after.append(stars(pipeline))
        kept.append(known(pipeline))
    judged = [scores(tmp_path / str(seed)) for seed in seeds]
    print(f"score/prompt {judged}")
    print(f"stars {before:.3f} → {after}, known shapes {kept_before:.3f} → {kept}")
    assert before < 0.05
    first, last = np.mean(judged, axis=0)
    assert first < 0.75
    assert last > 0.85
    assert np.mean(after) > learnt
    assert kept_before - np.mean(kept) <= lost
