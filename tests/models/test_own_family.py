"""A model family from outside the package, one folder and one YAML: a flow that is trained, resumed and drawn."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from loralab import cli
from loralab.adapters import file
from loralab.adapters.inject import inject
from loralab.adapters.lora import LoRA
from loralab.adapters.targets import Targets
from loralab.models import registry
from loralab.models.preview import sample, start_noise
from loralab.schema.compose import Places
from tests import ROOT
from tests.support import own_flow

CONF = ROOT / "tests" / "support" / "own_flow" / "conf"
RUN = (f"--config-dir={CONF}", "model=own_flow", "allow=[tests.support.own_flow.]", "data.buckets.step=16")


@pytest.fixture(autouse=True)
def known() -> Iterator[None]:
    """The family is one of those of this test alone."""
    registry.register(own_flow.ROW)
    yield
    del registry.FAMILIES["own_flow"]
    Places.use()


def test_it_trains_draws_and_its_files_are_recognised(train, capsys: pytest.CaptureFixture) -> None:
    words = ("objective/timesteps=logit_normal", "logger=csv", "targets.in_out=true")
    pictures = ("callbacks.samples.enabled=true", "callbacks.samples.steps=2", "data.cache.latents=memory")
    run = train(*RUN, *words, *pictures, "trainer.max_steps=100", "optimizer.lr=0.02", "trainer.log_every_n_steps=1")
    rows = csv.DictReader((run / "csv" / "metrics.csv").open())
    losses = [float(row["loss_step"]) for row in rows if row["loss_step"]]
    assert sum(losses[-15:]) / 15 < 0.92 * sum(losses[:5]) / 5
    assert "own_flow · own-flow-0 · predicts flow" in capsys.readouterr().out
    assert (run / "samples" / "grid.png").is_file()

    path = run / "adapter.safetensors"
    names = {name.partition(".")[0] for name in load_file(path)}
    assert names == {target.kohya for targets in own_flow.ROW.table.values() for target in targets}
    told = file.read_metadata(path)
    assert told["ss_base_model_version"] == "own_flow"
    assert told["modelspec.architecture"] == "own-flow/lora"
    assert not {"modelspec.prediction_type", "modelspec.encoder_layer"} & told.keys()
    with pytest.raises(SystemExit) as stop:
        cli.main(["inspect", str(path), "--json", "--allow", "tests.support.own_flow"])
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
    family = own_flow.load()
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
    family, plain = own_flow.load(), own_flow.load()
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
    family = own_flow.load()
    of = Targets(unet_lr=1e-3, text_encoder_lr=0.0)
    sites = of.choose({part: family.targets(part) for part in family.parts()}, family.block_count, conv=False)
    assert {(site.part, site.lr) for site in sites} == {("transformer", 1e-3), ("text_encoder", 0.0)}
    assert of.part("text_encoder_3") == of.parts["text_encoder"]
    assert family.block_count == 2


def test_a_single_file_in_a_layout_of_its_own(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """By the command it trains to the very file that the model in memory gives; adapters are merged into it."""
    family = own_flow.load()
    modules = {**family.parts(), "vae": family.vae}
    layout = {
        f"{start}{name}": t
        for p, start in own_flow.ROW.file_parts.items()
        for name, t in modules[p].state_dict().items()
    }
    save_file({name: tensor.contiguous().clone() for name, tensor in layout.items()}, tmp_path / "flow.safetensors")
    base = f"model.base={tmp_path / 'flow.safetensors'}"
    plain, of_file = (train(*RUN, *more, name=name) for name, more in (("plain", ()), ("file", (base,))))
    first, second = (load_file(run / "adapter.safetensors") for run in (plain, of_file))
    assert all(torch.equal(first[name], second[name]) for name in first)
    words = ["merge", str(of_file / "adapter.safetensors"), "--base", str(tmp_path / "flow.safetensors")]
    with pytest.raises(SystemExit) as stop:
        cli.main([*words, "-o", str(tmp_path / "merged.safetensors")])
    assert not stop.value.code, capsys.readouterr().err
    merged = own_flow.load(str(tmp_path / "merged.safetensors"))
    inject(family, LoRA(rank=4, weights=str(of_file / "adapter.safetensors")), Targets())
    noisy, at = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500.0])
    ours, theirs = (model.predict(noisy, at, model.encode_text(["star"])) for model in (family, merged))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_diffusers_folder(tmp_path: Path) -> None:
    """As diffusers and transformers save it: T5's words are used twice and stored once."""
    family = own_flow.load(seed=1)
    for part, module in {**family.parts(), "vae": family.vae}.items():
        module.save_pretrained(tmp_path / part)
    family.scheduler().save_pretrained(tmp_path / "scheduler")
    loaded = own_flow.load(str(tmp_path))
    assert loaded.text_id == family.text_id
    weights = [{name: value for name, value in f.identity.items() if "weights" in name} for f in (loaded, family)]
    assert len(weights[0]) == 3
    assert weights[0] == weights[1]
    assert loaded.process.prediction == "flow"


def test_another_familys_file_is_told_as_such(train, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    save_file(
        {"flow.proj_out.weight": torch.zeros(1), "bytes.x": torch.zeros(1), "pixels.x": torch.zeros(1)},
        tmp_path / "a.safetensors",
    )
    train("model=sd15", f"model.base={tmp_path / 'a.safetensors'}", code=1)
    assert "is a rectified flow in miniature, not Stable Diffusion 1.x" in capsys.readouterr().err


def test_the_doctor_counts_by_the_familys_own_measure(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Bytes, of which the model reads 31, or as many as the setting says."""
    for name, caption in (("a", "x" * 31), ("b", "é" * 16)):
        Image.new("RGB", (64, 64), (ord(name), 0, 0)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(caption, encoding="utf8")

    def report(*words: str) -> dict:
        with pytest.raises(SystemExit) as stop:
            cli.main(["doctor", *RUN, f"data.folder={tmp_path}", *words, "--json", "--quick"])
        assert not stop.value.code
        return json.loads(capsys.readouterr().out)

    found = report()
    assert [row["tokens"] for row in found["images"]] == [31, 32]
    (cut,) = [finding for finding in found["findings"] if finding["kind"] == "cut_captions"]
    assert (cut["text"], [Path(path).name for path in cut["images"]]) == (
        "caption longer than 31 tokens, truncated",
        ["b.png"],
    )
    assert not [
        finding for finding in report("model.max_token_length=40")["findings"] if finding["kind"] == "cut_captions"
    ]
