"""What an adapter does to one layer of the frozen base model.

A kind of adapter is one subclass of Method, which registers itself: what the user sets, the tensors it starts with and
that its files are recognised by, the change of the weight, and where other programs have it. Trainer, files and tools
read all of this from the class. An Adapter holds the tensors on one layer.

Tensors are named as files of the kohya layout name them, without `.weight`: lora_down, hada_w1_a …
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from loralab.models import onednn
from loralab.models.quantize import dequantized
from loralab.models.target import Target
from loralab.schema.ranges import Chance, Positive, Rank

Tensors = Mapping[str, Any] | nn.ParameterDict
"""The tensors of one adapter by name."""

Layer = nn.Linear | nn.Conv2d
"""What can be adapted. Quantised layers are linear."""


LYCORIS = "lycoris.kohya"
"""What files call the module of sd-scripts that trains all kinds of LyCORIS."""

METHODS: list[type[Method]] = []
"""Every kind of adapter that is imported, in the order in which a file's tensors are tried as theirs."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How layers are adapted: what the options of `adapter` have in common.

    A subclass says which tensors it has (`required`, by names of its own), creates them and computes their `delta`, or
    the whole `change` of a weight where it is no scaled sum (see multiplied).
    """

    rank: Rank
    alpha: Positive | None = None
    """The adapter's output is scaled by alpha / rank; null = the rank, a scale of 1."""
    conv_rank: Rank | None = None
    """Rank of k×k convolutions; giving it makes them targets. null = `rank`, where `targets.conv` asks for them."""
    conv_alpha: Positive | None = None
    """null = the same scale as the others have."""
    rs_lora: bool = False
    """Scale by alpha / √rank instead (arXiv 2312.03732)."""
    dropout: Chance = 0.0
    """Probability that an element inside the adapter is set to zero."""
    rank_dropout: Chance = 0.0
    """Probability that a rank component is set to zero."""
    module_dropout: Chance = 0.0
    """Probability that a layer goes without its adapter for a step."""
    max_norm: Positive | None = None
    """Upper bound on the norm of each layer's change, applied after every step."""
    weights: str | None = None
    """An adapter file to start from; its ranks and alphas count."""

    required: ClassVar[frozenset[str]]
    """Tensors that every adapter of this kind has: files are recognised by them."""
    optional: ClassVar[frozenset[str]] = frozenset()
    """Further ones that it may have, if only in files of other trainers."""
    flags: ClassVar[frozenset[str]] = frozenset()
    """Those among them that say something about the others; they may be whole numbers, and are not trained."""
    constants: ClassVar[frozenset[str]] = frozenset()
    """Tensors that are created and kept in training states, but not trained."""
    starts_at_zero: ClassVar[frozenset[str]]
    """Tensors that make the change zero at the start; LoRA+ gives them their own rate (arXiv 2402.12354)."""
    needs_weight: ClassVar[bool] = False
    """Whether the change of a weight depends on that weight."""
    in_layer_precision: ClassVar[bool] = False
    """Whether its tensors are used in the precision that the layer computes in, not in fp32."""
    can_be_trained: ClassVar[bool] = True
    """False: it is only merged, from files of other trainers."""
    in_diffusers: ClassVar[bool] = False
    """Whether diffusers and PEFT can load it (see `peft_form`)."""
    network_module: ClassVar[str] = ""
    """Its `ss_network_module`; where a class with tensors of its own names none, its import path, by which the tools
    find it."""
    network_args: ClassVar[Mapping[str, Any]] = {}
    """What names it in `ss_network_args`, beside its settings."""

    def __init_subclass__(cls) -> None:
        if "required" in vars(cls):
            cls.network_module = vars(cls).get("network_module", cls.import_path())
            METHODS[:] = [*(method for method in METHODS if method.import_path() != cls.import_path()), cls]

    @classmethod
    def import_path(cls) -> str:
        return f"{cls.__module__}.{cls.__qualname__}"

    def create(self, layer: Layer, rank: int, generator: torch.Generator) -> dict[str, Tensor]:
        """The tensors to start with, in fp32 on the CPU."""
        raise NotImplementedError

    def at(self, target: Target, alpha: float) -> Method:
        """The same for one module with its own alpha, where what is created depends on which it is."""
        return self

    def output(self, adapter: Adapter, x: Tensor) -> Tensor:
        """The layer's output with the adapter; `adapter.plain(x)` is that without. Here, by way of the whole change."""
        layer, shape, out = adapter.layer, weight_shape(adapter.layer), adapter.plain(x)
        rows = kept_rows(shape[0], self.rank_dropout, out) if adapter.training and self.rank_dropout else None
        x = F.dropout(x, self.dropout, adapter.training) if self.dropout else x
        names = list(adapter.values)

        def product(x: Tensor, *tensors: Tensor) -> Tensor:
            weight = plain_weight(layer) if self.needs_weight else None
            return apply(layer, x, self.change(dict(zip(names, tensors, strict=True)), adapter.scale, shape, weight))

        # the full-size factors are made again in the backward pass: kept, they would be thrice the base in memory
        added = checkpoint(product, x, *adapter.values.values(), use_reentrant=False, preserve_rng_state=False)
        return out + (added if rows is None else by_output(added, rows))

    def joined(self, adapters: Sequence[Adapter], x: Tensor) -> tuple[Tensor, ...] | None:
        """The outputs of several layers of one input with their adapters, of this method all, where computing them
        together is faster; else None."""
        return None

    @staticmethod
    def delta(tensors: Tensors) -> Tensor:
        """The unscaled change of the weight, (out, in) or (out, in, kh, kw) or (out, in·kh·kw); linear in each.

        Where a weight is multiplied, what the multiplier is made of: its norm is what is limited.
        """
        raise NotImplementedError

    @staticmethod
    def rank_of(tensors: Tensors) -> int | None:
        """The rank that alpha is divided by; None where these tensors have none, and alpha no meaning."""
        raise NotImplementedError

    @classmethod
    def recognises(cls, tensors: Tensors) -> bool:
        """Whether these are an adapter of this kind, by their names."""
        return cls.required <= set(tensors) <= cls.required | cls.optional

    @classmethod
    def change(cls, tensors: Tensors, scale: float, shape: torch.Size, weight: Tensor | None) -> Tensor:
        """The change of a weight of this shape, in fp32; the weight itself must be given where `needs_weight`."""
        return cls.delta({name: t.float() for name, t in tensors.items()}).reshape(shape) * scale

    @classmethod
    def shape_of(cls, tensors: Tensors) -> torch.Size:
        """The shape of the weight's change, without computing it; 0 for a width that they don't tell.

        A RuntimeError where their shapes are incompatible.
        """
        return cls.delta({name: t.to("meta") for name, t in tensors.items()}).shape

    @classmethod
    def norm(cls, tensors: Tensors) -> Tensor:
        """The Frobenius norm of `delta`."""
        return cls.delta(tensors).norm()

    @classmethod
    def factors(cls, tensors: Tensors) -> dict[str, Any]:
        """The tensors that `delta` is made of."""
        return dict(tensors.items())

    def norm_limit(self, layer: Layer) -> float | None:
        """The upper bound on `norm` at a layer, applied after every step."""
        return self.max_norm

    @classmethod
    def size(cls, tensors: Tensors) -> str:
        """How large it is, in words: its rank, where it has one."""
        return str(cls.rank_of(tensors) or "full")

    @classmethod
    def from_file(cls, tensors: dict[str, Tensor], alpha: float | None) -> tuple[dict[str, Tensor], float]:
        """Tensors and alpha as a file has them, to be used; a missing alpha is the rank, a scale of 1."""
        return tensors, float(cls.rank_of(tensors) or 1) if alpha is None else alpha

    @classmethod
    def in_file(cls, tensors: Tensors, alpha: Tensor) -> dict[str, Tensor]:
        """What a file has of an adapter: its tensors, flags and alpha."""
        return {"alpha": alpha, **tensors}

    @staticmethod
    def fitted(tensors: Tensors, shape: torch.Size) -> Tensors:
        """Tensors of a file in the form that a layer of this weight shape wants: linear, or with a kernel."""
        return tensors

    @classmethod
    def peft_form(cls, name: str, tensors: Tensors, scale: float) -> dict[str, Tensor]:
        """PEFT's tensors of the module `name`, which have no alpha: the scale is multiplied into one of them."""
        raise NotImplementedError

    def effective_alpha(self, alpha: float, rank: int) -> float:
        """The alpha that a file holds: every reader scales by alpha / rank, so √rank is folded into it."""
        return alpha * math.sqrt(rank) if self.rs_lora else alpha


@dataclass(slots=True)
class Moment:
    """What the adapters of a model are told of the samples that they are asked about."""

    timesteps: Tensor | None = None
    """(B,) while a denoiser is trained or validated."""


class Adapter(nn.Module):
    """An adapter on one layer. Its tensors are fp32 masters, whatever the layer's precision.

    While it is attached it stands in for the layer's forward; the layer stays where it is in the base, unregistered
    here, so that neither's state dict changes.
    """

    def __init__(self, layer: Layer, method: Method, tensors: Tensors, alpha: float) -> None:
        super().__init__()
        self.method = method
        self.active = True
        self.strength = 1.0
        """How much of the change is applied; of any kind, that of the merged weight."""
        self.moment = Moment()
        """Shared by those that are told together."""
        self._layer = (layer,)  # in a tuple: not a submodule
        self.plain = layer.forward
        """The layer without its adapter."""
        self.register_buffer("alpha", torch.tensor(0.0), persistent=True)
        self.put(tensors, alpha)
        layer.forward = self.forward

    def put(self, tensors: Tensors, alpha: float) -> None:
        """Takes these tensors in place of those it has; their ranks may differ."""
        device = device_of(self.layer)
        tensors = self.method.fitted(tensors, weight_shape(self.layer))
        tensors = {name: tensor.float().to(device).clone() for name, tensor in tensors.items()}
        constants = self.method.constants
        self.tensors = nn.ParameterDict({n: nn.Parameter(t) for n, t in tensors.items() if n not in constants})
        for name in constants:
            self.register_buffer(name, tensors[name])
        self.alpha = torch.tensor(float(alpha), device=device)
        rank = self.method.rank_of(self.tensors)
        self.scale = float(alpha) / rank if rank else 1.0

    @property
    def values(self) -> dict[str, Tensor]:
        """All of its tensors, the constant ones too."""
        return {**self.tensors, **{name: self.get_buffer(name) for name in self.method.constants}}

    @property
    def layer(self) -> Layer:
        return self._layer[0]

    def forward(self, input: Tensor) -> Tensor:
        """The layer's output with the adapter: (B, T, D) for linear layers, (B, C, H, W) for convolutions."""
        if not self.active or (self.training and drawn(self.method.module_dropout)):
            return self.plain(input)
        x = input.to(working_dtype(input))  # cast once, for the layer and the adapter
        output = self.method.output(self, x)
        return output if self.strength == 1 else torch.lerp(self.plain(x), output, self.strength)

    def together(self, input: Tensor, others: Sequence[Any]) -> tuple[Tensor, ...] | None:
        """The outputs of this layer and of those of other adapters for one input, as `Method.joined` has them."""
        adapters = [self, *others]
        is_plain = all(
            isinstance(each, Adapter) and each.active and each.strength == 1 and each.method == self.method
            for each in adapters
        )
        if not is_plain or (self.training and self.method.module_dropout):
            return None
        return self.method.joined(adapters, input.to(working_dtype(input)))

    def delta(self) -> Tensor:
        """The change of the layer's weight, in its shape."""
        weight = plain_weight(self.layer) if self.method.needs_weight else None
        return self.method.change(self.values, self.scale, weight_shape(self.layer), weight)

    def norm(self) -> Tensor:
        """The Frobenius norm of the change, the direction's for DoRA."""
        return self.method.norm(self.values) * self.scale

    @torch.no_grad()
    def limit_norm(self, limit: float) -> Tensor:
        """Shrinks the change to a norm of at most `limit`, all factors alike; says whether it had to, () bool.

        The norm is not read, which would wait for the device.
        """
        norm = self.norm()
        factors = self.method.factors(self.tensors)
        for tensor in factors.values():
            tensor.mul_((limit / norm).clamp(max=1) ** (1 / len(factors)))
        return norm > limit

    def detach_from_layer(self) -> None:
        """Restores the layer's own forward."""
        del self.layer.forward


def is_spatial(layer: Layer) -> bool:
    """A convolution larger than 1×1."""
    return isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)


def weight_shape(layer: Layer) -> torch.Size:
    """(out, in) or (out, in, kh, kw), also of a quantised layer."""
    if isinstance(layer, nn.Conv2d):
        return layer.weight.shape
    return torch.Size((layer.out_features, layer.in_features))


def device_of(layer: nn.Module) -> torch.device:
    return next(layer.parameters()).device


@torch.no_grad()
def plain_weight(layer: Layer) -> Tensor:
    """The weight in fp32, also of a quantised layer."""
    return layer.weight.float() if layer.weight.is_floating_point() else dequantized(layer)


def working_dtype(x: Tensor) -> torch.dtype:
    """The precision a layer computes in: autocast's, else its input's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def apply(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """The layer's operation with another weight, without bias."""
    if not isinstance(layer, nn.Conv2d):
        return onednn.linear_of(layer)(x, weight.to(x.dtype))
    if layer.kernel_size == (1, 1) and layer.stride == (1, 1):
        return pointwise(layer, x, weight)
    return F.conv2d(x, weight.to(x.dtype), None, layer.stride, layer.padding, layer.dilation)


def pointwise(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """A weight (out, in) or (out, in, 1, 1) applied to the features of (B, T, D) or (B, C, H, W), as in the layer."""
    linear, weight = onednn.linear_of(layer), weight.to(x.dtype)
    if weight.dim() == 2:
        return linear(x, weight)
    is_product = x.device.type == "cpu" and onednn.is_free(layer)
    return onednn.pointwise(x, weight) if is_product else F.conv2d(x, weight)


def drawn(probability: float) -> bool:
    """True with this probability, by the global generator (which training seeds for each micro-batch)."""
    return probability > 0 and torch.rand(()).item() < probability


def kept_rows(count: int, probability: float, like: Tensor) -> Tensor:
    """(count,) zeros with this probability, else 1/(1 − probability), so that the mean stays."""
    return F.dropout(torch.ones(count, dtype=like.dtype, device=like.device), probability)


def by_output(x: Tensor, factors: Tensor) -> Tensor:
    """(…, out) or (B, out, H, W) times a factor for each output."""
    return x * (factors[:, None, None] if x.dim() == 4 else factors)
