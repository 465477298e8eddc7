"""The LoRA itself against sd-scripts: its file's outputs, its gradients, its step, its names."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file

from loralab.adapters import file
from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.models.families.sd import load
from tests import GOLDEN
from tests.support.adapters import merged

ADAPTER = GOLDEN / "lora.safetensors"


@pytest.fixture(scope="module")
def io():
    return load_file(GOLDEN / "lora_io.safetensors")


@pytest.fixture
def family(reference_base):
    return load(str(reference_base), attention="eager", resolution=128)


def outputs(family, io):
    """Text encoder and UNet for the golden inputs, by the golden file's names."""
    text = family.text_encoders["text_encoder"](io["in.input_ids"], output_hidden_states=True)
    unet = family.denoiser(io["in.sample"], io["in.timesteps"], io["in.encoder_hidden_states"]).sample
    skipped = final_norm(family)(text.hidden_states[-2])
    return {
        "te_last_hidden": text.last_hidden_state,
        "te_pooled": text.pooler_output,
        "te_clip_skip2": skipped,
        "unet": unet,
    }


def final_norm(family):
    model = family.text_encoders["text_encoder"]
    return getattr(model, "text_model", model).final_layer_norm


def assert_outputs(family, io, prefix):
    with torch.no_grad():
        for name, out in outputs(family, io).items():
            torch.testing.assert_close(out, io[f"{prefix}.{name}"], atol=1e-5, rtol=1e-5, msg=f"{prefix} {name}")


def test_a_file_gives_the_outputs_it_gives_there(family, io):
    assert_outputs(family, io, "base")
    adapters = inject(family, LoRA(rank=2, weights=str(ADAPTER)), Targets())
    adapters.eval()
    assert_outputs(family, io, "from_file_m1.0")
    with merged(adapters):
        assert_outputs(family, io, "from_file_m1.0")
    with adapters.enabled(False):
        assert_outputs(family, io, "base")
    adapters.remove()
    assert_outputs(family, io, "base")


def test_a_file_is_saved_as_it_was_loaded(family, tmp_path):
    adapters = inject(family, LoRA(rank=2, weights=str(ADAPTER)), Targets())
    with safe_open(ADAPTER, "pt") as golden:
        metadata = {k: v for k, v in golden.metadata().items() if k.startswith("ss_")}
        hashes = {k: v for k, v in golden.metadata().items() if k.startswith("sshs_")}
    file.save(tmp_path / "again.safetensors", adapters.state(), metadata, precision="fp32")
    ours, theirs = load_file(tmp_path / "again.safetensors"), load_file(ADAPTER)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert file.read_metadata(tmp_path / "again.safetensors") == {**metadata, **hashes}


def test_gradients_and_a_step(family, io):
    golden = load_file(GOLDEN / "lora_grad_step.safetensors")
    adapters = inject(family, LoRA(rank=2, weights=str(ADAPTER)), Targets())

    def predict():
        text = family.text_encoders["text_encoder"](io["in.input_ids"], output_hidden_states=True)
        hidden = final_norm(family)(text.hidden_states[-2])  # clip skip 2
        return family.denoiser(io["in.sample"], io["in.timesteps"], hidden).sample

    optimizer = torch.optim.AdamW(adapters.parameter_groups(1e-3))
    loss = F.mse_loss(predict(), golden["in.target_noise"])
    loss.backward()
    torch.testing.assert_close(loss.detach(), golden["out.loss"][0], atol=1e-6, rtol=1e-6)
    trained = 0
    for name, adapter in adapters:
        for tensor in ("lora_down", "lora_up"):
            grad, expected = adapter.tensors[tensor].grad, golden.get(f"{name}.{tensor}.weight")
            assert (grad is None) == (expected is None), name  # the text layer that clip skip passes over has none
            if expected is not None:
                torch.testing.assert_close(grad, expected, atol=1e-7, rtol=1e-3, msg=f"{name} {tensor}")
                trained += 1
    assert trained == len(golden) - 4
    norm = torch.nn.utils.clip_grad_norm_(adapters.parameters(), 1.0)
    torch.testing.assert_close(norm, golden["out.grad_norm_before_clip"][0], atol=1e-5, rtol=1e-4)
    optimizer.step()
    with torch.no_grad():
        expected = golden["out.unet_after_1_adamw_step_lr1e-3_clip1.0"]
        torch.testing.assert_close(predict(), expected, atol=2e-5, rtol=1e-4)
