"""A model family from outside the package: what is known of it without torch, and the function that its YAML names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loralab.models.row import Part, Row, register
from loralab.models.target import LayerKind, Target, plain_target
from loralab.models.text.tokens import Measure
from loralab.schema.ranges import AtLeastOne, Count, Pixels
from loralab.types import Fit

ARCHITECTURE = {
    "transformer": {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "joint_attention_dim": 32,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 32,
        "pos_embed_max_size": 16,
    },
    # 259: padding, the end, one unused, and 256 bytes
    "text_encoder": {"vocab_size": 259, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4},
    "vae": {
        "block_out_channels": (8, 8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "latent_channels": 16,
        "scaling_factor": 1.5,
        "shift_factor": 0.06,
    },
}
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")


def targets(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Target]]:
    layers = range(configs["text_encoder"]["num_layers"])
    queries = (f"encoder.block.{layer}.layer.0.SelfAttention.{name}" for layer in layers for name in "qkvo")
    return {
        "transformer": list(_transformer(configs["transformer"]["num_layers"])),
        "text_encoder": [plain_target("lora_te", path, "attention") for path in queries],
    }


def _transformer(layers: int) -> Iterator[Target]:
    ends: dict[str, LayerKind] = {"proj_out": "in_out", "context_embedder": "projection"}
    for path, kind in ends.items():
        yield plain_target("lora_transformer", path, kind)
    for layer in range(layers):
        unread = "add_q_proj" if layer == layers - 1 else ""  # of the last block, only image tokens go on
        inside: dict[str, LayerKind] = {f"attn.{name}": "attention" for name in ATTENTION if name != unread}
        for path, kind in {**inside, "ff.net.0.proj": "feed_forward", "ff.net.2": "feed_forward"}.items():
            yield plain_target("lora_transformer", f"transformer_blocks.{layer}.{path}", kind, layer)


def measure(length: int) -> Measure:
    """Every byte of a caption is a token; the last of so many is the end."""
    return Measure(length - 1, lambda text: (len(text.encode()), Fit(1, max(0, len(text.encode()) - length + 1))))


ROW = register(
    Row(
        name="own_flow",
        title="a rectified flow in miniature",
        short="tiny flow",
        options=("own_flow",),
        loader="tests.support.own_flow.load",
        parts={
            "transformer": Part("lora_transformer", "transformer", "diffusers.SD3Transformer2DModel"),
            "text_encoder": Part("lora_te", "text encoder", "transformers.T5EncoderModel"),
        },
        targets=targets,
        architecture=ARCHITECTURE,
        measure=lambda model: measure(model["max_token_length"]),
        predictions=("flow",),
        bucket_step=16,  # tokens of two by two latent cells
        config={"_class_name": "SD3Transformer2DModel"},
        file_parts={"transformer": "flow.", "text_encoder": "bytes.", "vae": "pixels."},
        file_has=("flow.",),
        adapter_has=r"^lora_transformer_|^transformer\.",
        versions={"flow": "own_flow"},
        version_starts="own_flow",
        architectures={"flow": "own-flow"},
    )
)


def load(
    base: str | None = None, *, seed: Count = 0, resolution: Pixels = 64, max_token_length: AtLeastOne = 32
) -> Any:
    """A single file or a diffusers folder; without one, random weights."""
    from loralab.diffusion.process import Flow
    from loralab.models.load import load_base, random_base
    from tests.support.own_flow.family import Encoder, OwnFlow

    made = f"own-flow-{seed}", seed, ARCHITECTURE, Flow(), "fp32"
    loaded = load_base("own_flow", base) if base else random_base(ROW, *made)
    encoders = {part: Encoder(model, max_token_length) for part, model in loaded.text_encoders.items()}
    return OwnFlow(loaded, encoders, resolution)
