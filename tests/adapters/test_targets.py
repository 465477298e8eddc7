"""Where adapters sit, with which rank, alpha and learning rate."""

from __future__ import annotations

import json

import pytest
import torch

from loralab.adapters.base import weight_shape
from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.errors import UserError
from loralab.models.families.sd import load
from loralab.models.families.sd.names import block_count, text_targets, unet_targets
from loralab.models.registry import FAMILIES
from loralab.schema.compose import compose

SD1, SDXL = (FAMILIES[name].architecture["unet"] for name in ("sd1", "sdxl"))
SD1_TABLE = {"text_encoder": text_targets(12, "lora_te"), "unet": unet_targets(SD1, False)}
SDXL_TABLE = {
    "text_encoder": text_targets(12, "lora_te1"),
    "text_encoder_2": text_targets(32, "lora_te2"),
    "unet": unet_targets(SDXL, True),
}


def choose(targets: Targets, table=SD1_TABLE, blocks=25, conv=False):
    return {site.name: site for site in targets.choose(table, blocks, conv)}


@pytest.fixture
def family(random_base):
    return load(str(random_base), resolution=64)


def refused(setting: str, **settings):
    with pytest.raises(UserError) as error:
        choose(Targets(**settings))
    assert error.value.problems[0].setting == setting, error.value
    return str(error.value)


def test_the_modules_that_sd_scripts_takes():
    assert len(choose(Targets())) == 264
    assert len(choose(Targets(text_encoder=False))) == 192
    assert len(choose(Targets(unet=False))) == 72
    assert len(choose(Targets(), conv=True)) == len(choose(Targets(conv=True))) == 350
    assert len(choose(Targets(conv=False), conv=True)) == 264
    assert len(choose(Targets(), SDXL_TABLE, 23)) == 986
    ends = set(choose(Targets(in_out=True))) - set(choose(Targets()))
    assert ends == {
        f"lora_unet_{n}" for n in ("conv_in", "conv_out", "time_embedding_linear_1", "time_embedding_linear_2")
    }
    assert len(choose(Targets(in_out=True), SDXL_TABLE, 23)) == 986 + 6
    without = choose(Targets(text_encoder_2=False), SDXL_TABLE, 23)
    assert not any(name.startswith("lora_te2") for name in without)
    only = choose(Targets(feed_forward=False, projection=False, text_encoder=False))
    assert len(only) == 16 * 8
    assert all("_attn" in name for name in only)


def test_blocks():
    """sd-scripts' 25 blocks: IN00…IN11, the middle, OUT00…OUT11; SDXL's 23."""
    ranks = list(range(25))
    chosen = choose(Targets(blocks={"rank": ranks, "lr_factor": [0.5] * 24 + [0.0]}, unet_lr=2e-4, conv=True))
    expected = {
        "down_blocks_0_attentions_0_proj_in": 1,
        "down_blocks_0_downsamplers_0_conv": 3,
        "down_blocks_2_attentions_1_proj_out": 8,
        "mid_block_attentions_0_proj_in": 12,
        "up_blocks_1_attentions_0_proj_in": 16,
        "up_blocks_2_upsamplers_0_conv": 21,
        "up_blocks_3_attentions_2_transformer_blocks_0_ff_net_2": 24,
    }
    for name, rank in expected.items():
        site = chosen[f"lora_unet_{name}"]
        assert (site.rank, site.lr, site.group) == (rank, 2e-4, f"unet/block{rank:02d}")
    assert chosen["lora_te_text_model_encoder_layers_0_mlp_fc1"].rank is None
    xl = choose(Targets(blocks={"rank": list(range(23))}), SDXL_TABLE, block_count(SDXL, True))
    assert xl["lora_unet_input_blocks_4_1_proj_in"].rank == 5
    assert xl["lora_unet_middle_block_1_proj_in"].rank == 11
    assert xl["lora_unet_output_blocks_0_1_proj_in"].rank == 13
    assert "25 blocks" in refused("targets.blocks.rank", blocks={"rank": [4] * 24})


def test_patterns():
    patterns = [
        {"match": r"attn2\.to_[kv]", "rank": 2, "alpha": 1.0, "lr": 1e-5},
        {"match": "attn2", "rank": 0},
        {"match": r"unet.*resnets.*conv1$", "rank": 3},
    ]
    chosen = choose(Targets(patterns=patterns, unet_lr=1e-3))
    prefix = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0"
    site = chosen[f"{prefix}_attn2_to_k"]
    assert (site.rank, site.alpha, site.lr, site.group) == (2, 1.0, 1e-5, r"unet/attn2\.to_[kv]")
    assert chosen[f"{prefix}_attn2_to_q"].rank == 0
    assert chosen[f"{prefix}_attn1_to_q"].lr == 1e-3
    assert chosen["lora_unet_down_blocks_0_resnets_0_conv1"].conv_rank == 3
    assert "lora_unet_down_blocks_0_resnets_0_conv2" not in chosen


def test_patterns_that_match_nothing():
    assert "attn3" in refused("targets.patterns.0.match", patterns=[{"match": "attn3"}])
    shadowed = [{"match": "attn"}, {"match": "attn2"}]
    assert "earlier" in refused("targets.patterns.1.match", patterns=shadowed)
    assert "regular expression" in refused("targets.patterns.0.match", patterns=[{"match": "attn("}])
    refused("targets.patterns.0.match", patterns=[{"match": "text_encoder"}], text_encoder=False)
    refused("targets.patterns.0.rnak", patterns=[{"match": "attn", "rnak": 2}])
    refused("targets.patterns.0.match", patterns=[{"rank": 2}])
    refused("targets.blocks.ranks", blocks={"ranks": [1]})
    refused("targets", unet=False, text_encoder=False)


def test_ranks_alphas_and_groups_of_a_model(family):
    targets = Targets(
        patterns=[{"match": "mid_block.*attn1", "rank": 2, "lr": 5e-5}, {"match": "attn2", "rank": 0}],
        text_encoder_lr=0.0,
        conv=True,
        loraplus_ratio=16.0,
    )
    adapters = inject(family, LoRA(rank=6, alpha=3.0, conv_rank=5), targets)
    state = adapters.state()
    down = {name: state[f"{name}.lora_down.weight"] for name in adapters.adapters}
    assert down["lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"].shape[0] == 2
    assert down["lora_unet_mid_block_resnets_0_conv1"].shape[0] == 5
    assert state["lora_unet_mid_block_resnets_0_conv1.alpha"] == 2.5  # the scale of the others
    assert down["lora_unet_mid_block_resnets_0_time_emb_proj"].shape[0] == 6
    assert state["lora_unet_mid_block_resnets_0_time_emb_proj.alpha"] == 3
    assert not any("attn2" in name for name in down)
    frozen = [name for name in down if name.startswith("lora_te")]
    assert len(frozen) == 18  # in the file, and never trained
    assert not any(p.requires_grad for name in frozen for p in adapters.adapters[name].parameters())
    groups = {group["name"]: group for group in adapters.parameter_groups(1e-4)}
    rates = {name: group["lr"] for name, group in groups.items()}
    pattern = "unet/mid_block.*attn1"
    assert rates == pytest.approx({"unet": 1e-4, "unet/plus": 16e-4, pattern: 5e-5, f"{pattern}/plus": 8e-4})
    trained = [p for group in groups.values() for p in group["params"]]
    assert len(trained) == len(set(trained)) == sum(p.requires_grad for p in adapters.parameters())
    ups = {id(a.tensors["lora_up"]) for _, a in adapters}
    assert {id(p) for p in groups["unet/plus"]["params"]} <= ups
    with pytest.raises(UserError):
        inject_frozen(family, adapters)


def test_sizes_of_convolutions(family):
    """Their own rank and alpha, of the block, then of the adapter, then those of the other layers."""
    name = "lora_unet_mid_block_resnets_0_conv1"
    blocks = {"rank": [8] * 9, "alpha": [2.0] * 9}
    for method, targets, rank, alpha in (
        ({"rank": 6}, {"conv": True}, 6, 6),
        ({"rank": 6, "alpha": 3.0}, {"conv": True}, 6, 3),
        ({"rank": 6, "alpha": 3.0, "conv_rank": 2, "conv_alpha": 5.0}, {}, 2, 5),
        ({"rank": 6, "conv_rank": 2}, {"blocks": blocks}, 2, 0.5),
        ({"rank": 6, "conv_rank": 2}, {"blocks": {**blocks, "conv_rank": [3] * 9, "conv_alpha": [1.0] * 9}}, 3, 1),
        ({"rank": 6}, {"conv": True, "blocks": blocks}, 8, 2),
        ({"rank": 6, "conv_rank": 2}, {"patterns": [{"match": "resnets", "rank": 4, "alpha": 7.0}]}, 4, 7),
    ):
        adapters = inject(family, LoRA(**method), Targets(**targets))
        adapter = adapters.adapters[name]
        assert (adapter.tensors["lora_down"].shape[0], adapter.alpha.item()) == (rank, alpha), (method, targets)
        adapters.remove()


def inject_frozen(family, adapters):
    adapters.remove()
    inject(family, LoRA(rank=1), Targets(unet_lr=0.0, text_encoder_lr=0.0)).parameter_groups(1e-4)


def test_rs_lora_scale(family):
    """alpha / √rank, by an alpha in the file that every reader divides by the rank."""
    adapters = inject(family, LoRA(rank=8, alpha=3.0, rs_lora=True), Targets(text_encoder=False))
    for name, adapter in adapters:
        assert adapter.scale == pytest.approx(3 / 8**0.5)
        assert adapters.state()[f"{name}.alpha"].item() / 8 == pytest.approx(3 / 8**0.5)


def test_a_start_depends_on_nothing_else(family):
    """An adapter starts with the same numbers, whichever others there are; another seed gives others."""
    both = inject(family, LoRA(rank=4), Targets(), seed=1)
    state = both.state()
    both.remove()
    unet = inject(family, LoRA(rank=4), Targets(text_encoder=False), seed=1)
    assert all(torch.equal(tensor, state[key]) for key, tensor in unet.state().items())
    unet.remove()
    other = inject(family, LoRA(rank=4), Targets(text_encoder=False), seed=2).state()
    assert all(not torch.equal(other[key], state[key]) for key in other if key.endswith("down.weight"))


def test_the_start_is_sd_scripts_start(family):
    """Down uniform within ±1/√(fan in), up zero."""
    adapters = inject(family, LoRA(rank=64), Targets(conv=True))
    for _, adapter in adapters:
        down, up = adapter.tensors["lora_down"], adapter.tensors["lora_up"]
        bound = weight_shape(adapter.layer)[1:].numel() ** -0.5
        assert down.abs().max() <= bound
        assert abs(down.std().item() / (bound / 3**0.5) - 1) < 0.1
        assert not up.any()


def test_shipped_targets():
    for name, parts in (("both", 264), ("unet_only", 192), ("text_encoder_only", 72)):
        settings = compose([f"targets={name}"]).tree["targets"]
        settings = {key: value for key, value in settings.items() if not key.startswith("_")}
        assert len(choose(Targets(**settings))) == parts
        assert json.dumps(settings)
