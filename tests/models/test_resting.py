"""Parts that rest: where their weights are while they are used and afterwards, and that nothing of a result changes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

from loralab.models.families.sdxl import miniature
from loralab.models.load import without_weights
from loralab.models.resting import replace
from tests import ROOT
from tests.support.runs import adapter, record

TINY = str(ROOT / "src" / "loralab" / "assets" / "tiny")
ENCODERS = ("text_encoder", "text_encoder_2")


def test_where_the_weights_are() -> None:
    """In a process of its own, with a device of its own."""
    done = subprocess.run([sys.executable, "-m", __name__], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Board(backend_registration._DummyBackendModule):
    """A second kind of device, of which torch knows where tensors are, and nothing of what is in them."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def devices(module: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*module.parameters(), *module.buffers())}


def all_rest(family: Any) -> bool:
    return all(devices(part) == {"cpu"} for part in (family.vae, *family.text_encoders.values()))


def placement(family: Any) -> None:
    family.rest([*ENCODERS, "vae"])
    assert [*family.always_there()] == ["unet"]
    replace(family.denoiser, lambda tensor: tensor.to("board"))
    before = {name: id(p) for name, p in family.vae.named_parameters()}
    used: dict[nn.Module, set[str]] = {}
    for part in (family.vae.encoder, family.vae.decoder, *family.text_encoders.values()):
        part.register_forward_hook(lambda part, *_: used.update({part: devices(part)}))

    conditioning = family.encode_text(["a star"])
    mean, _ = family.encode_image(torch.zeros(1, 3, 64, 64))
    prediction = family.predict(mean, torch.ones(1, device="board"), conditioning)
    picture = family.decode(prediction)
    for tensor in (conditioning.hidden, mean, prediction, picture):
        assert tensor.device.type == "board"
    assert len(used) == 4
    assert all(found == {"board"} for found in used.values())
    assert all_rest(family)
    assert {name: id(p) for name, p in family.vae.named_parameters()} == before, "nothing was copied back"

    with family.resting.keeping():
        family.encode_text(["a star"])
        assert devices(family.text_encoders["text_encoder"]) == {"board"}
        assert devices(family.vae) == {"cpu"}, "not yet used"
    assert all_rest(family)
    try:
        family.decode(torch.zeros(1, 3, 8, 8, device="board"))
    except RuntimeError:  # of another model
        assert all_rest(family)
    else:
        raise AssertionError


def test_a_run_rests_what_it_has_cached(train) -> None:
    """Nothing of the result changes where all is on one device."""
    given = ["targets=unet_only", "data.cache.latents=memory", "data.cache.text=true"]
    pictures = ["callbacks.samples.enabled=true", "callbacks.samples.steps=2", "callbacks.samples.prompts=[star]"]
    plain, drawn = train(*given, name="plain"), train(*given, *pictures, name="drawn")
    assert record(drawn)["status"] == "finished"
    assert adapter(plain) == adapter(drawn)


@pytest.mark.gpu
def test_on_a_gpu_only_what_trains_is_there(train) -> None:
    given = [
        "targets=unet_only",
        "data.cache.latents=memory",
        "trainer.accelerator=gpu",
        "callbacks.samples.enabled=true",
    ]
    small = record(train(*given, "data.cache.text=true", name="small"))
    large = record(train(*given, "data.cache.text=false", "data.cache.latents=none", name="large"))
    assert small["status"] == large["status"] == "finished"
    assert small["peak_memory_gb"] <= large["peak_memory_gb"]


if __name__ == "__main__":
    backend_registration._setup_privateuseone_for_python_backend("board", Board())
    with FakeTensorMode(), without_weights():
        placement(miniature(TINY))
