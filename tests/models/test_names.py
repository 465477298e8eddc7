"""Names of adapted modules, against the names and shapes in files of sd-scripts and against the models themselves."""

from __future__ import annotations

import pytest
import torch

from loralab.models.families.sd.names import block_count, unet_targets
from tests.support.names import ARCHITECTURES, CASES, golden, modules, targets


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_are_those_of_sd_scripts(case: str):
    """Each name of a real file, and no other, stands for a module of the full-size model with fitting shapes."""
    family, expected = CASES[case], golden(case)
    parts = modules(family)
    found = {}
    for part, table in targets(family, parts).items():
        for target in table:
            if target.kind == "in_out" or (target.kind == "conv" and not case.endswith("conv")):
                continue
            weight = parts[part].get_submodule(target.path).weight
            spatial = weight.dim() == 4 and weight.shape[-1] == 3
            rank, unit = (2 if spatial else 4), [1, 1] if weight.dim() == 4 else []
            found[target.kohya] = [[rank, *weight.shape[1:]], [weight.shape[0], rank, *unit]]
    assert found == expected


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_the_tables_name_every_layer_of_the_unet(family: str):
    """Nothing that an adapter could sit on is forgotten."""
    unet = modules(family)["unet"]
    layers = {n for n, m in unet.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)}
    named = [target.path for target in unet_targets(ARCHITECTURES[family]["unet"], original=family == "sdxl")]
    assert len(named) == len(set(named))
    assert set(named) == layers


def test_blocks_are_counted_as_in_sd_scripts():
    sd = {t.path: t.block for t in unet_targets(ARCHITECTURES["sd1"]["unet"], original=False)}
    assert block_count(ARCHITECTURES["sd1"]["unet"], original=False) == 25
    assert sd["down_blocks.0.attentions.0.proj_in"] == 1
    assert sd["down_blocks.1.attentions.1.proj_in"] == 5
    assert sd["down_blocks.2.downsamplers.0.conv"] == 9
    assert sd["mid_block.attentions.0.proj_in"] == sd["mid_block.resnets.1.conv1"] == 12
    assert sd["up_blocks.0.resnets.0.conv1"] == 13
    assert sd["up_blocks.0.upsamplers.0.conv"] == 15
    assert sd["up_blocks.3.attentions.2.proj_out"] == 24

    xl = {t.path: (t.block, t.kohya) for t in unet_targets(ARCHITECTURES["sdxl"]["unet"], original=True)}
    assert block_count(ARCHITECTURES["sdxl"]["unet"], original=True) == 23
    assert xl["down_blocks.0.resnets.0.conv1"] == (2, "lora_unet_input_blocks_1_0_in_layers_2")
    assert xl["down_blocks.1.downsamplers.0.conv"] == (7, "lora_unet_input_blocks_6_0_op")
    assert xl["mid_block.attentions.0.proj_in"] == (11, "lora_unet_middle_block_1_proj_in")
    assert xl["up_blocks.0.upsamplers.0.conv"] == (15, "lora_unet_output_blocks_2_2_conv")
    assert xl["conv_in"] == (1, "lora_unet_input_blocks_0_0")
    assert xl["time_embedding.linear_2"] == (0, "lora_unet_time_embed_2")
    assert xl["add_embedding.linear_1"] == (0, "lora_unet_label_emb_0_0")
    assert xl["conv_out"] == (22, "lora_unet_out_2")
    assert xl["up_blocks.2.resnets.2.conv_shortcut"] == (21, "lora_unet_output_blocks_8_0_skip_connection")


def test_a_miniature_has_its_own_table(random_family):
    """Two levels, one layer each: all names stand for modules, and blocks are counted alike."""
    for part, module in random_family.parts().items():
        for path in (target.path for target in random_family.targets(part)):
            assert module.get_submodule(path) is not None
    blocks = [target.block for target in random_family.targets("unet")]
    assert sorted(block for block in set(blocks) if block is not None) == list(range(random_family.block_count))
