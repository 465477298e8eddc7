"""The public architecture (arXiv 2307.01952), and a miniature of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loralab.models.families.sd.architecture import text, unet, vae
from loralab.models.row import Config, Row

SDXL = {
    "unet": unet(
        sample_size=128,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
    "text_encoder": text(),
    "text_encoder_2": text(
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        hidden_act="gelu",
        projection_dim=1280,
    ),
    "vae": vae(sample_size=1024, scaling_factor=0.13025, force_upcast=True),
}


MINIATURE = {
    "unet": unet(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        transformer_layers_per_block=(1, 2),
        attention_head_dim=(2, 4),
        cross_attention_dim=80,
        norm_num_groups=16,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=96,  # 48 of the pooled text + 6 · 8 of size and crop
    ),
    "text_encoder": text(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2),
    "text_encoder_2": text(
        hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=2, projection_dim=48
    ),
    "vae": vae(block_out_channels=(16, 16, 32, 32), layers_per_block=1, norm_num_groups=8, sample_size=64),
}
"""Its structure at a hundredth of its width."""


VAES: dict[int, Config] = {
    4: {},
    16: {  # that of FLUX.1
        "latent_channels": 16,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    # that of FLUX.2, which has statistics of its latents instead of a factor
    32: {"latent_channels": 32, "_class_name": "AutoencoderKLFlux2"},
}
"""How the config of a VAE differs from SDXL's own, by its latent channels."""


def with_channels(channels: int, configs: Mapping[str, Config]) -> dict[str, Config]:
    """Configs by part of a model with so many latent channels."""
    vae = {**configs["vae"], **VAES.get(channels, {})}
    if "_class_name" in vae:
        del vae["scaling_factor"]
    return {**configs, "unet": {**configs["unet"], "in_channels": channels, "out_channels": channels}, "vae": vae}


def of_file(row: Row, part: str, shapes: Mapping[str, Sequence[int]]) -> Config:
    """The config of a part of a single file, by the latent channels that it shows."""
    shows = "decoder.conv_in.weight" if part == "vae" else row.file_latents
    channels = next((shape[1] for name, shape in shapes.items() if name.endswith(shows)), 4)
    return with_channels(channels, row.architecture)[part]
