"""A run that cannot come to anything ends with a word about why, and what was good is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from loralab.schema.ranges import Range

ALL = ("data.batch_size=2", "data=folder", "logger=csv", "optimizer.lr=1e-2", "adapter.rank=2")
SIX = "trainer.max_steps=6"
"""Two epochs; under seed 0 the bad image is in the third batch of the first, under seed 1 in the second."""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Five good images, and one whose loss is infinite: by a weight that the settings would refuse."""
    monkeypatch.setattr(Range, "__contains__", lambda *_: True)
    for name, count in (("good", 5), ("bad", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            Image.new("RGB", (64, 64), (40 * i, 99, 20)).save(tmp_path / name / f"{name}{i}.png")
    return f"data.folders=[{{path: {tmp_path / 'good'}}}, {{path: {tmp_path / 'bad'}, weight: 1.0e+39}}]"


def saved(folder: Path) -> tuple[int, dict[str, torch.Tensor]]:
    """The last state's step and adapter."""
    last = max((folder / "states").iterdir())
    state = torch.load(last / "state.ckpt", weights_only=True)
    return json.loads((last / "state.json").read_text())["step"], state["state_dict"]


def test_a_loss_that_is_not_finite_stops_before_the_step(train, folders: str, capsys: pytest.CaptureFixture) -> None:
    train(*ALL, folders, SIX, name="run", code=1)
    said = capsys.readouterr().err
    assert "is not finite" in said
    assert "bad0.png" in said
    assert "good" not in said.split("first bad value")[0].split("with")[-1], "only the image at fault is named"
    assert "Traceback" not in said
    step, kept = saved(Path("run"))
    assert (step, f"step{step:08d}" in said) == (2, True)
    until = saved(train(*ALL, folders, "trainer.max_steps=2", "callbacks.state.enabled=true", name="until"))
    assert all(torch.equal(tensor, until[1][name]) for name, tensor in kept.items())


def test_a_late_look_keeps_the_state_at_the_one_before(train, folders: str, capsys: pytest.CaptureFixture) -> None:
    """As on a GPU, where the steps since the last look are looked at together."""
    late = (
        "+callbacks.late._target_=tests.support.callbacks.LookLate",
        "allow=[tests.]",
        "trainer.log_every_n_steps=100",
    )
    train(*ALL, folders, SIX, *late, "callbacks.export.every_n_steps=2", name="run", code=1)
    said = capsys.readouterr().err
    assert "bad0.png" in said
    assert "optimizer step 3" in said
    step, kept = saved(Path("run"))
    (file,) = Path("run").glob("adapter-step*.safetensors")
    assert (step, file.stem) == (2, "adapter-step00000002"), "what is saved or used is looked at before"
    assert all(tensor.isfinite().all() for tensors in (kept, load_file(file)) for tensor in tensors.values())


def test_bad_steps_can_be_left_out(train, folders: str, capsys: pytest.CaptureFixture) -> None:
    """With an EMA, a schedule and an optimizer that counts steps, which must not go on either."""
    words = ("health.on_nan=skip", "scheduler=linear", "ema.decay=0.5", "callbacks.state.enabled=true")
    words += ("optimizer=schedulefree",)
    folder = train(*ALL, SIX, folders, "seed=1", *words, name="run")
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "adapter.safetensors").values())
    (last,) = (folder / "states").iterdir()
    state = torch.load(last / "state.ckpt", weights_only=True)
    (skipped,) = (c["skipped"] for name, c in state["callbacks"].items() if name.startswith("Health"))
    assert skipped == 2, "one in each epoch of three steps"
    assert state["lr_schedulers"][0]["last_epoch"] == 6 - skipped
    assert state["ema"]["steps"] == 6 - skipped - 1
    assert state["optimizer_states"][0]["param_groups"][0]["k"] == 6 - skipped
    train(*ALL, SIX, folders, "seed=1", *words, "health.skips_in_a_row=1", name="strict", code=1)


HALF = ("+callbacks.half._target_=tests.support.callbacks.HalfPrecision", "allow=[tests.]", "scheduler=linear")


def test_half_precision_leaves_out_what_its_scale_is_too_large_for(train, folders: str) -> None:
    """Stopping is not for it; the schedule waits, and a resumed run has the scale of the state."""
    words = (*ALL, SIX, *HALF, folders, "seed=1", "callbacks.state.enabled=true", "callbacks.state.every_n_steps=1")
    whole = train(*words, "callbacks.state.keep_last=null", name="whole")
    states = [torch.load(path / "state.ckpt", weights_only=True) for path in sorted((whole / "states").iterdir())]
    counts = [c["skipped"] for state in states for name, c in state["callbacks"].items() if name.startswith("Health")]
    steps = [state["lr_schedulers"][0]["last_epoch"] for state in states]
    scales = [state["MixedPrecision"]["scale"] for state in states]
    assert counts[-1] == 2, "the bad image is in one step of each epoch"
    assert [skipped + done for skipped, done in zip(counts, steps, strict=True)] == [1, 2, 3, 4, 5, 6]
    assert scales == [65536 / 2**skipped for skipped in counts]
    resumed = train(*words, f"resume={whole / 'states' / 'step00000003'}", name="resumed")
    assert (resumed / "adapter.safetensors").read_bytes() == (whole / "adapter.safetensors").read_bytes()


def test_half_precision_stops_after_many_in_a_row(train, folders: str, capsys: pytest.CaptureFixture) -> None:
    all_bad = folders.replace("good}", "good, weight: 1.0e+39}")
    train(*ALL, SIX, *HALF, all_bad, "health.skips_in_a_row=3", name="run", code=1)
    said = capsys.readouterr().err
    assert "optimizer step 3" in said
    assert "3 such steps in a row" in said


def test_the_first_bad_module_is_named(train, random_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import shutil

    shutil.copytree(random_base, tmp_path / "broken")
    file = tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["mid_block.resnets.0.conv1.bias"][0] = float("nan")
    save_file(weights, file, metadata={"format": "pt"})
    train(f"model.base={tmp_path / 'broken'}", code=1)
    assert "first bad value: unet.mid_block.resnets.0.conv1" in capsys.readouterr().err


def test_tensors_that_do_not_learn_end_the_run(random_family) -> None:
    from loralab.adapters.inject import inject
    from loralab.adapters.lora import LoRA
    from loralab.adapters.targets import Targets
    from loralab.training.movement import LATE, SOON, Movement

    adapters = inject(random_family, LoRA(rank=2), Targets(text_encoder_lr=0))
    try:
        parameters = {name: p for name, p in adapters.named_parameters() if p.requires_grad}
        movement = Movement(adapters, random_family)
        assert set(movement.start) == set(parameters), "what is frozen need not move"
        unreached, reached, *others = parameters
        for step in range(1, SOON + LATE + 1):
            for name in others:
                parameters[name].data += 1
            movement.note({name: torch.ones(1) for name in parameters if name != unreached})
            dead = movement.dead(parameters)
            assert dead == {SOON: [unreached], SOON + LATE: [unreached, reached]}.get(step, [])
    finally:
        adapters.remove()


def test_layers_that_clip_skip_leaves_out_need_not_learn(train) -> None:
    train("model.clip_skip=2", "targets=text_encoder_only", "trainer.max_steps=4")


def test_no_steps_is_an_error(train, capsys: pytest.CaptureFixture) -> None:
    train("trainer.limit_train_batches=0.0", code=1)
    assert "no batch would be trained on" in capsys.readouterr().err


def test_too_little_memory_says_what_to_change() -> None:
    from loralab.errors import UserError
    from loralab.schema.compose import compose
    from loralab.training.memory_advice import memory_advice

    settings = compose(["model=sd15", "data=folder", "data.folder=/tmp", "data.batch_size=4"]).tree
    with pytest.raises(UserError) as caught, memory_advice(settings):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    said = str(caught.value)
    assert said.index("data/cache=disk") < said.index("gradient_checkpointing=true") < said.index("batch_size=2")
    with pytest.raises(RuntimeError, match="shapes"), memory_advice(settings):
        raise RuntimeError("shapes do not fit")
