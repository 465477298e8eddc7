"""A model family from outside the package, one folder and one YAML: a flow that is trained, resumed and drawn."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

from loralab import cli
from loralab.adapters import file
from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.models import registry
from loralab.models.preview import sample, start_noise
from tests import ROOT
from tests.support import tiny_flow

CONF = ROOT / "tests" / "support" / "tiny_flow" / "conf"
RUN = (f"--config-dir={CONF}", "model=tiny_flow", "allow=[tests.support.tiny_flow.]", "data.buckets.step=16")


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """The family is one of those of this test alone."""
    registry.register(tiny_flow.ROW)
    yield
    del registry.FAMILIES["tiny_flow"]


def test_it_trains_draws_and_its_files_are_recognised(train, capsys: pytest.CaptureFixture) -> None:
    words = ("objective/timesteps=logit_normal", "logger=csv", "targets.in_out=true")
    pictures = ("callbacks.samples.enabled=true", "callbacks.samples.steps=2", "data.cache.latents=memory")
    run = train(*RUN, *words, *pictures, "trainer.max_steps=60", "optimizer.lr=0.02", "trainer.log_every_n_steps=1")
    rows = csv.DictReader((run / "csv" / "metrics.csv").open())
    losses = [float(row["loss_step"]) for row in rows if row["loss_step"]]
    assert sum(losses[-15:]) / 15 < 0.92 * sum(losses[:5]) / 5
    assert "tiny_flow · tiny-flow-0 · predicts flow" in capsys.readouterr().out
    assert (run / "samples" / "grid.png").is_file()

    path = run / "adapter.safetensors"
    names = {name.partition(".")[0] for name in load_file(path)}
    assert names == {target.kohya for targets in tiny_flow.ROW.table.values() for target in targets}
    told = file.read_metadata(path)
    assert told["ss_base_model_version"] == "tiny_flow"
    assert told["modelspec.architecture"] == "tiny-flow/lora"
    assert not {"modelspec.prediction_type", "modelspec.encoder_layer"} & told.keys()
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", str(path), "--json", "--allow", "tests.support.tiny_flow"])
    assert not stop.value.code
    report = json.loads(capsys.readouterr().out)
    assert "LoRA adapter for a rectified flow in miniature, rank 4, alpha 4; 8 modules of the" in report["summary"]
    assert not report["problems"]
    blocks = {"transformer": 2, "transformer 0": 9, "transformer 1": 8, "text_encoder": 8}
    assert {block: norms["layers"] for block, norms in report["blocks"].items()} == blocks


def test_a_resumed_run_gives_the_file_of_one_that_was_not_stopped(train) -> None:
    words = (*RUN, "objective/timesteps=logit_normal", "objective/weighting=min_snr", "adapter.dropout=0.1")
    words += ("callbacks.state.every_n_steps=3", "callbacks.state.enabled=true")
    whole = train(*words, "trainer.max_steps=6", name="whole")
    stopped = next((whole / "states").glob("*3"))
    resumed = train(*words, "trainer.max_steps=6", f"resume={stopped}", name="resumed")
    assert (resumed / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()


def test_options_that_mend_diffusion_have_no_meaning(train, capsys: pytest.CaptureFixture) -> None:
    train(*RUN, "objective/noise=[offset,multires]", "objective/weighting=[v_like,debiased]", code=1)
    said = capsys.readouterr().err
    for option in ("noise.offset", "noise.multires", "weighting.v_like", "weighting.debiased"):
        assert f"objective.{option}: needs a model that predicts" in said
    assert said.count("but this one predicts a flow") == 4
    train(*RUN, "+model.zero_terminal_snr=true", code=1)
    assert "model.zero_terminal_snr: unknown setting" in capsys.readouterr().err


def test_pictures_follow_the_flow() -> None:
    """Euler's method from noise to image, along sigmas evenly apart."""
    family = tiny_flow.load()
    ours = sample(family, ["star"], [3], steps=4, guidance=2.0, negative="bad")
    x = start_noise([3], (16, 8, 8))
    sigmas = [*family.scheduler().sigmas[[0, 333, 666, 999]].tolist(), 0.0]
    with torch.no_grad():
        for sigma, after in pairwise(sigmas):
            at = torch.tensor([1000 * sigma])
            without, towards = (family.predict(x, at, family.encode_text([caption])) for caption in ("bad", "star"))
            x = x + (after - sigma) * (without + 2 * (towards - without))
    torch.testing.assert_close(ours, family.decode(x), rtol=1e-3, atol=1e-3)


def test_diffusers_loads_its_adapters() -> None:
    """The names of the other layout are those of diffusers' own class."""
    family, plain = tiny_flow.load(), tiny_flow.load()
    adapters = inject(family, LoRA(rank=2), Targets(text_encoder=False))
    for tensor in adapters.parameters():
        torch.nn.init.normal_(tensor, std=0.3, generator=torch.Generator().manual_seed(0))
    noisy, at = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500.0])
    conditioning = plain.encode_text(["star"])
    before = plain.predict(noisy, at, conditioning)
    plain.denoiser.load_lora_adapter(adapters.state("diffusers"), prefix="transformer")
    theirs = plain.predict(noisy, at, conditioning)
    torch.testing.assert_close(family.predict(noisy, at, conditioning), theirs, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, theirs, atol=1e-2)


def test_targets_by_part() -> None:
    """The keys of users go by what a part does, whatever a family calls it."""
    family = tiny_flow.load()
    of = Targets(unet_lr=1e-3, text_encoder_lr=0.0)
    sites = of.choose({part: family.targets(part) for part in family.parts()}, family.block_count, conv=False)
    assert {(site.part, site.lr) for site in sites} == {("transformer", 1e-3), ("text_encoder", 0.0)}
    assert of.part("text_encoder_3") == of.parts["text_encoder"]
    assert family.block_count == 2
