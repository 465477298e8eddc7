"""A model without its weights, and what a run does with it: shapes alone, under torch's FakeTensorMode.

Every storage counts from the operation that makes it until it is freed (see storages). Fake tensors are on the CPU; for
a CUDA device the operations are those of a GPU: norms in fp32 under autocast, or fused ones, and torch's own products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from loralab.adapters.inject import inject
from loralab.memory.storages import Storages, norms_in_fp32
from loralab.models.checkpointing import checkpoint_gradients, outermost
from loralab.models.fused import set_fused, shapes_alone
from loralab.models.load import without_weights

CAPTION = "a red star on a blue ground"
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Weightless:
    """A base model with adapters, built from a run's settings as training builds them."""

    def __init__(self, settings: Mapping[str, Any], device: str) -> None:
        self.device, self.precision = device, settings["trainer"]["precision"]
        self.mode, self.storages = FakeTensorMode(), Storages()
        model = {**settings["model"], "gradient_checkpointing": settings["model"].get("gradient_checkpointing") is True}
        for key, value in {"quantize": None, **({"kernels": "torch"} if device == "cuda" else {})}.items():
            if key in model:
                model[key] = value
        model = {key: value for key, value in model.items() if key in settings["model"]}
        with self._counting(), without_weights():
            self.family = instantiate(model, _convert_="all")
            self.weights = self.storages.now
            kind = instantiate({**settings["adapter"], "weights": None}, _convert_="all")
            adapters = inject(self.family, kind, instantiate(settings["targets"], _convert_="all"), 0)
            self.trained: list[Tensor] = [p for p in adapters.parameters() if p.requires_grad]
            self.adapter = self.storages.now - self.weights
            if device == "cuda" and settings["model"].get("kernels") == "auto" and _has_triton():
                set_fused(self.family.denoiser)
        self.blocks = len(outermost(self.family.denoiser))

    @contextmanager
    def _counting(self):
        with self.mode, self.storages:
            yield

    def step(self, side: tuple[int, int], count: int, blocks: bool | int, passes: int = 1) -> int:
        """Bytes that a training step of so many images (width, height) takes beside the weights, gradients included.

        blocks: of the denoiser that are computed again; all where the model was built so. passes: forward passes whose
        loss is taken together.
        """
        for weight in self.trained:
            weight.grad = None
        with self._counting(), self._as_on_device():
            self._checkpoint(blocks)
            losses = partial(map, lambda _: self._loss(side, count), range(passes))
            return self.storages.more_in(lambda: sum(losses(), torch.zeros(())).backward())

    def kept(self, side: tuple[int, int], count: int, blocks: bool | int) -> int:
        """Bytes that the forward pass of a step keeps for backward."""
        with self._counting(), self._as_on_device():
            self._checkpoint(blocks)
            before = self.storages.now
            loss = self._loss(side, count)
            kept = self.storages.now - before
            del loss
        return kept

    def _checkpoint(self, blocks: bool | int) -> None:
        if blocks is not True and self.blocks:
            checkpoint_gradients(self.family.denoiser, (), int(blocks))

    def _loss(self, side: tuple[int, int], count: int) -> Tensor:
        noisy = torch.randn(count, *self.family.latent_shape(side[1], side[0]))
        with self._autocast():
            conditioning = self.family.encode_text([CAPTION] * count)
            prediction = self.family.predict(noisy, torch.full((count,), 500), conditioning)
            return nn.functional.mse_loss(prediction, torch.randn_like(noisy))

    def encode(self, side: tuple[int, int]) -> int:
        """Bytes that the VAE takes to encode an image."""
        return self._more(lambda: self.family.encode_image(torch.zeros(1, 3, side[1], side[0])))

    def pictures(self, side: tuple[int, int], count: int) -> int:
        """Bytes that drawing so many pictures together takes: two predictions for each, then the VAE."""
        shape = self.family.latent_shape(side[1], side[0])

        def draw() -> None:
            with self._autocast():
                conditioning = self.family.encode_text([CAPTION] * 2 * count, size=(side[1], side[0]))
                self.family.predict(torch.zeros(2 * count, *shape), torch.full((2 * count,), 500), conditioning)
            self.family.decode(torch.zeros(count, *shape))

        return self._more(draw)

    def _more(self, work: Callable[[], object]) -> int:
        with self._counting(), self._as_on_device(), torch.no_grad():
            return self.storages.more_in(work)

    @contextmanager
    def _as_on_device(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self.device == "cuda":
                stack.enter_context(norms_in_fp32())
                stack.enter_context(shapes_alone())
            yield

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cpu", AUTOCAST.get(self.precision, torch.bfloat16), enabled=self.precision in AUTOCAST)


def _has_triton() -> bool:
    """Whether a GPU computes fused norms: where there is none, one elsewhere is asked about, whose torch has Triton."""
    return not torch.cuda.is_available() or find_spec("triton") is not None
