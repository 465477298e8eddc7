"""A model family from outside the package: what is known of it without torch, and the function that its YAML names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loralab.models.names import LayerKind, Target
from loralab.models.registry import Part, Row, register
from loralab.schema.ranges import AtLeastOne, Count, Pixels

TRANSFORMER = {
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
}
TEXT = {"vocab_size": 259, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
"""259: padding, the end, one unused, and 256 bytes."""

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")


def targets(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Target]]:
    return {
        "transformer": list(_transformer(configs["transformer"]["num_layers"])),
        "text_encoder": list(_text(configs["text_encoder"]["num_layers"])),
    }


def _transformer(layers: int) -> Iterator[Target]:
    for path, kind in (("proj_out", "in_out"), ("context_embedder", "projection")):
        yield _target("lora_transformer", path, kind)
    for layer in range(layers):
        unread = "add_q_proj" if layer == layers - 1 else ""  # of the last block, only image tokens go on
        for name in ATTENTION:
            if name != unread:
                yield _target("lora_transformer", f"transformer_blocks.{layer}.attn.{name}", "attention", layer)
        for name in ("net.0.proj", "net.2"):
            yield _target("lora_transformer", f"transformer_blocks.{layer}.ff.{name}", "feed_forward", layer)


def _text(layers: int) -> Iterator[Target]:
    for layer in range(layers):
        for name in "qkvo":
            yield _target("lora_te", f"encoder.block.{layer}.layer.0.SelfAttention.{name}", "attention")


def _target(prefix: str, path: str, kind: LayerKind, block: int | None = None) -> Target:
    return Target(path, f"{prefix}_{path.replace('.', '_')}", path, kind, block)


ROW = Row(
    name="tiny_flow",
    title="a rectified flow in miniature",
    short="tiny flow",
    options=("tiny_flow",),
    loader="tests.support.tiny_flow.load",
    parts={"transformer": Part("lora_transformer", "transformer"), "text_encoder": Part("lora_te", "text encoder")},
    targets=targets,
    public={"transformer": TRANSFORMER, "text_encoder": TEXT},
    predictions=("flow",),
    latent_channels=16,
    bucket_step=16,  # tokens of two by two latent cells
    config={"_class_name": "SD3Transformer2DModel"},
    adapter_has=r"^lora_transformer_|^transformer\.",
    versions={"flow": "tiny_flow"},
    version_starts="tiny_flow",
    architectures={"flow": "tiny-flow"},
)
register(ROW)


def load(*, seed: Count = 0, resolution: Pixels = 64, max_bytes: AtLeastOne = 32) -> Any:
    from tests.support.tiny_flow.family import made

    return made(seed, resolution, max_bytes)
