"""A tool run as by its command, and what a model answers."""

from __future__ import annotations

from argparse import ArgumentParser

import torch


def run(tool, *arguments) -> None:
    parser = ArgumentParser()
    tool.add_arguments(parser)
    tool.main(parser.parse_args([str(argument) for argument in arguments]))


@torch.no_grad()
def answer(family) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    noisy, ids = torch.randn(2, 4, 8, 8, generator=draw), torch.randint(0, 500, (2, 77), generator=draw)
    hidden = family.text_encoders["text_encoder"](ids).last_hidden_state
    return family.denoiser(noisy, torch.tensor([3, 800]), hidden).sample
