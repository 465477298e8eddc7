"""Memory: how much is used, and what to change when it is not enough, the cheapest first."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralab.errors import user_error

if TYPE_CHECKING:
    import torch

WORDS = ("out of memory", "not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def peak_gigabytes(device: torch.device) -> float:
    """The most memory used: of a CUDA device, else of the process; 0 on Windows, where it is not available."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    if sys.platform == "win32":
        return 0.0
    with suppress(OSError, StopIteration):  # ru_maxrss counts the process that started this one, too
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**20
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


@contextmanager
def memory_advice(settings: Mapping[str, Any]) -> Iterator[None]:
    """Turns an out-of-memory error inside the block into a UserError that names the settings that would help.

    settings: the composed configuration.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in WORDS):
            raise
        first = (str(error) or "out of memory").splitlines()[0]
        remedies = "\n".join(f"    {number}. {remedy}" for number, remedy in enumerate(_remedies(settings), 1))
        raise user_error("memory", first, f"try in this order, the cheapest first:\n{remedies}") from error


def _remedies(settings: Mapping[str, Any]) -> Iterator[str]:
    """Remedies that are not in use yet."""
    model, data, trainer = settings["model"], settings["data"], settings["trainer"]
    batch = data["batch_size"]
    if data["cache"]["latents"] == "none":
        yield "data/cache=disk: the VAE is then needed only before training; also faster"
    if "8bit" not in settings["optimizer"]["_target_"].lower():
        yield "optimizer=adamw8bit: a quarter of the optimizer's state"
    if model.get("gradient_checkpointing", True) is not True:
        yield "model.gradient_checkpointing=true: the same result, a third slower"
    if batch > 1:
        accumulate = trainer["accumulate_grad_batches"]
        halves = f"data.batch_size={batch // 2} trainer.accumulate_grad_batches={accumulate * 2}"
        yield f"{halves}: nearly the same result, slower"
    if trainer["precision"] == "32-true" and trainer["accelerator"] != "cpu":
        yield "trainer.precision=bf16-mixed: also faster, slightly less precise"
    if model.get("dtype") == "fp32":
        yield "model.dtype=bf16: half of the base model's memory, slightly less precise"
    if trainer["strategy"] == "ddp":
        yield "trainer=fsdp: each device keeps a part of the base model; the same result, slower"
    if model.get("quantize", "") is None and trainer["strategy"] != "fsdp":
        yield "model.quantize=int8, then nf4: half, then a quarter of the base model's bf16, less precise and slower"
    if model.get("offload", 1) == 0 and trainer["accelerator"] != "cpu" and trainer["strategy"] == "auto":
        yield "model.offload=0.5, up to 1.0: the denoiser's blocks wait in the CPU's memory; the same result, slower"
    if settings["targets"].get("text_encoder"):
        yield "targets=unet_only: the text encoder is not trained"
    rank = settings["adapter"]["rank"]
    yield f"data.resolution below {data['resolution']}, or adapter.rank below {rank}: learns less"
