"""Makes the tiny Stable Diffusion from nothing: python -m scripts.tiny_model.pretrain FOLDER --seed 0

Draws its own pictures, trains the autoencoder, whitens its latents, trains text encoder and UNet on them, and writes
a diffusers folder in fp16. Runs on the GPU where there is one, else on the CPU (about an hour on two cores). With
--flow, the tiny Z-Image over the latents of the shipped autoencoder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    StableDiffusionPipeline,
    ZImagePipeline,
)
from torch import Tensor

from scripts.tiny_model import denoiser, evaluate, flow, tokenizer, unet, vae
from scripts.tiny_model.bank import SIZES, Chooser, MaskBank, known_counts
from scripts.tiny_model.flow import Flow
from scripts.tiny_model.unet import Diffusion

VAE_FILE, DENOISER_FILE, FLOW_FILE = "vae.pt", "denoiser.pt", "flow.pt"


class Log:
    """Lines of figures, printed and kept, with the seconds since the start."""

    def __init__(self, path: Path) -> None:
        self.path, self.start = path, time.monotonic()

    def __call__(self, **figures: float) -> None:
        line = json.dumps({"s": round(time.monotonic() - self.start), **{k: round(v, 4) for k, v in figures.items()}})
        print(line, flush=True)
        with self.path.open("a") as file:
            file.write(line + "\n")


def make_vae(banks: list[MaskBank], steps: int, rng: np.random.Generator, log: Log, device: str) -> AutoencoderKL:
    """A trained autoencoder with white latents. Many blobs, whose corners are as sharp as a star's."""
    choose = Chooser(main=0.4, more=0.25)

    def paint(count: int) -> Tensor:
        return banks[rng.choice(len(banks))].paint(choose(count, rng), rng)

    model = vae.build().to(device)
    vae.train(model, 2e-3, paint, steps, rng, log)
    vae.whiten(model, banks[0].paint(choose(1000, rng), rng))
    vae.polish(model, paint, steps // 5, rng, log)
    return model.eval()


def draw_banks(sizes: Iterable[tuple[int, int]], rng: np.random.Generator) -> list[MaskBank]:
    return [MaskBank(width, height, known_counts(600 if width == height else 150), rng) for width, height in sizes]


def make_latents(
    model: AutoencoderKL, banks: list[MaskBank], each: int, rng: np.random.Generator
) -> list[denoiser.Pictures]:
    """Encoded pictures with their combinations; half of all are square, the rest share the other sizes."""
    choose = Chooser(main=0.6, more=0.3)
    stock = []
    for index, bank in enumerate(banks):
        count = each if index == 0 else each // len(banks[1:])
        drawn = choose(count, rng)
        with torch.autocast(model.device.type, torch.bfloat16):
            mean, std = vae.encode(model, bank.paint(drawn, rng))
        stock.append(denoiser.Pictures(mean.float() * vae.SCALING_FACTOR, std.float() * vae.SCALING_FACTOR, drawn))
    return stock


def make_diffusion(options: argparse.Namespace, rng: np.random.Generator, log: Log, device: str) -> None:
    banks = draw_banks(SIZES, rng)
    vae_file = options.work / VAE_FILE
    if vae_file.exists():
        model = vae.build().to(device).eval()
        model.load_state_dict(torch.load(vae_file, weights_only=True))
    else:
        model = make_vae(banks, options.vae_steps, rng, log, device)
        torch.save(model.state_dict(), vae_file)
    words = tokenizer.build()
    stock = make_latents(model, banks, 10_000, rng)
    made = Diffusion(words).to(device)
    denoiser.train(made, stock, options.steps or 2800, rng, log, options.work / DENOISER_FILE)

    pipeline = StableDiffusionPipeline(
        vae=model,
        text_encoder=made.text_encoder,
        tokenizer=words,
        unet=made.unet,
        scheduler=DDIMScheduler(**unet.SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(options.folder)


def make_flow(options: argparse.Namespace, rng: np.random.Generator, log: Log, device: str) -> None:
    """Over the latents of the shipped autoencoder, which is left out of the folder."""
    banks = draw_banks([size for size in SIZES if not any(side % flow.SIDE for side in size)], rng)
    model = AutoencoderKL.from_pretrained(evaluate.SHIPPED, subfolder="vae", torch_dtype=torch.float32).to(device)
    stock = make_latents(model, banks, 10_000, rng)
    words = tokenizer.build_for_flow()
    made = Flow(words).to(device)
    denoiser.train(made, stock, options.steps or 5400, rng, log, options.work / FLOW_FILE)

    pipeline = ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(**flow.SCHEDULE), None, made.text_encoder, words, made.transformer
    )
    pipeline.to(dtype=torch.float16).save_pretrained(options.folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--flow", action="store_true", help="the tiny Z-Image, over the latents of the tiny SD")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vae-steps", type=int, default=3600)
    parser.add_argument("--steps", type=int, help="of text encoder and denoiser; default: 2800, of a flow 5400")
    parser.add_argument("--work", type=Path, default=Path("outputs/tiny_model"), help="where stages are kept")
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options.work.mkdir(parents=True, exist_ok=True)
    log = Log(options.work / "log.jsonl")
    (make_flow if options.flow else make_diffusion)(options, rng, log, device)
    log(bytes=sum(file.stat().st_size for file in options.folder.rglob("*") if file.is_file()))


if __name__ == "__main__":
    main()
