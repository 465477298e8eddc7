"""Measures a tiny model against its gates: python -m scripts.tiny_model.evaluate [FOLDER]

Prints JSON: reconstruction in dB, and what the classifier sees in pictures of prompts whose combinations were held out
of the pretraining, and in pictures of stars that were asked for by a word the model cannot know. Exit code 1 if a gate
is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, ZImagePipeline
from torch import Tensor

from scripts.tiny_model import classifier, pictures, vae

SHIPPED = Path(__file__).parents[2] / "src" / "loralab" / "assets" / "tiny"
SHIPPED_FLOW = SHIPPED.with_name("tiny_flow")
GUIDANCE, STEPS = 3.0, 20
RECONSTRUCTION_DB, RIGHT, RIGHT_OF_FLOW, STARS = 28.0, 0.95, 0.9, 0.05


def load(folder: Path = SHIPPED) -> DiffusionPipeline:
    """The pipeline in fp32, silent; with the autoencoder that is shipped, where it has none of its own."""
    own = (folder / "vae").is_dir()
    # Z-Image's pipeline adds a shift, which this autoencoder has not
    others = {} if own else {"vae": AutoencoderKL.from_pretrained(SHIPPED, subfolder="vae", shift_factor=0.0)}
    pipeline = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **others)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu", torch.float32)


def sample(
    pipeline: DiffusionPipeline, prompts: list[str], seed: int, guidance: float = GUIDANCE, steps: int = STEPS
) -> Tensor:
    """Pictures (B, 3, 64, 64) in [0, 1]; all start from one generator's noise, so that the order of prompts counts.

    guidance: 1 is none, which Z-Image's pipeline calls 0.
    """
    noise = torch.Generator().manual_seed(seed)
    is_flow = isinstance(pipeline, ZImagePipeline)
    special = {"height": 64, "width": 64, "max_sequence_length": 64} if is_flow else {}
    parts = [
        pipeline(
            prompts[first : first + 64],
            generator=noise,
            guidance_scale=guidance - is_flow,
            num_inference_steps=steps,
            output_type="pt",
            **special,
        ).images
        for first in range(0, len(prompts), 64)
    ]
    return torch.cat(parts).cpu()


def fresh_pictures(shapes: tuple[str, ...], count: int, seed: int) -> Tensor:
    """Drawn pictures (N, 3, 64, 64) in [-1, 1], in any two colours."""
    rng = np.random.default_rng(seed)
    drawn = [
        pictures.picture(str(rng.choice(shapes)), *map(str, rng.choice(list(pictures.COLOURS), 2, replace=False)), rng)
        for _ in range(count)
    ]
    return torch.from_numpy(np.stack(drawn)).movedim(-1, 1).float() / 127.5 - 1


def shares(pipeline: DiffusionPipeline, wanted: list[pictures.Combination], seed: int, **sampling) -> dict:
    """How often shape, colour and background of the pictures are as asked for, and how often a star is seen."""
    prompts = [pictures.caption(*combination) for combination in wanted]
    seen = classifier.load().classify(sample(pipeline, prompts, seed, **sampling))
    right = {
        question: float(np.mean([said == asked for said, asked in zip(seen[question], answers, strict=True)]))
        for question, answers in zip(classifier.LABELS, zip(*wanted, strict=True), strict=True)
    }
    return {**right, "star": star_share(seen)}


def star_share(seen: dict[str, list[str]]) -> float:
    return float(np.mean([shape == pictures.STAR for shape in seen["shape"]]))


def star_prompts(trigger: str = "sks star") -> list[str]:
    """One for each pair of different colours, worded as the embedded data's captions."""
    return [f"{trigger}, {c}, {b} background" for c in pictures.COLOURS for b in pictures.COLOURS if c != b]


def measure(pipeline: DiffusionPipeline, seeds: range, **sampling) -> dict:
    held_out = pictures.combinations(pictures.MAIN_SHAPES, held_out=True)
    runs = [shares(pipeline, held_out, seed, **sampling) for seed in seeds]
    judge = classifier.load()
    stars = [star_share(judge.classify(sample(pipeline, star_prompts(), seed, **sampling))) for seed in seeds]
    return {
        "reconstruction_db": vae.reconstruction_db(
            pipeline.vae, fresh_pictures(pictures.MAIN_SHAPES + pictures.MORE_SHAPES, 300, seed=99)
        ),
        "reconstruction_db_star": vae.reconstruction_db(pipeline.vae, fresh_pictures((pictures.STAR,), 100, seed=99)),
        "held_out_prompts": len(held_out),
        "held_out": {key: [round(run[key], 4) for run in runs] for key in runs[0]},
        "star_share_when_asked": [round(share, 4) for share in stars],
        "threshold": RIGHT_OF_FLOW if isinstance(pipeline, ZImagePipeline) else RIGHT,
    }


def passes(figures: dict) -> bool:
    right = [np.mean(figures["held_out"][question]) for question in classifier.LABELS]
    stars = (np.mean(figures["held_out"]["star"]), np.mean(figures["star_share_when_asked"]))
    return figures["reconstruction_db"] > RECONSTRUCTION_DB and min(right) > figures["threshold"] and max(stars) < STARS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=SHIPPED)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    figures = measure(load(options.folder), range(3), guidance=options.guidance, steps=options.steps)
    figures["passes"] = bool(passes(figures))
    print(json.dumps(figures, indent=2))
    sys.exit(not figures["passes"])


if __name__ == "__main__":
    main()
