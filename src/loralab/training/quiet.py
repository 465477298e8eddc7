"""Silences the tips and warnings of libraries, and all processes of a run but the first."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings

from loralab.console import is_first

TALKATIVE = ("lightning.pytorch", "lightning.fabric", "bitsandbytes", "diffusers", "transformers", "huggingface_hub")

KNOWN_HARMLESS = (
    r".*litlogger.*",
    r".*does not have many workers.*",  # the images are small; data.num_workers says what is wanted
    r".*LeafSpec.*",
    r".*is smaller than the logging interval.*",
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*lr_scheduler.step\(\)` before `optimizer.step\(\).*",  # fp16's scaler skipped a step
    r".*No module named 'kernels'.*",
    r".*resuming from a checkpoint that ended before the epoch ended.*",  # the sampler starts where it stopped
    r".*in eval mode at the start of training.*",  # the frozen base
    r".*have no `validation_step`.*",  # callbacks/validation.py validates
    r".*Torchinductor does not support code generation for complex.*",  # of rotary embeddings
)


def quiet() -> None:
    """Keeps the errors of verbose libraries and silences their tips. Call it before other imports.

    Of several processes only the first prints.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP warns where all tensors are used
    import lightning.pytorch  # noqa: F401  # sets its own level when imported

    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    for message in KNOWN_HARMLESS:
        warnings.filterwarnings("ignore", message=message)
    threading.excepthook = _one_message
    if not is_first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # until the process ends


def _one_message(args: threading.ExceptHookArgs) -> None:
    """TensorBoard writes in a thread of its own, and raises its error at the next call, too."""
    if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard.")):
        threading.__excepthook__(args)
