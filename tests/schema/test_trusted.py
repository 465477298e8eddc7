"""Nothing but what is allowed is ever built: what a configuration names runs no code."""

import json
from pathlib import Path

import pytest

from tests.support.refusals import problems

EVIL = "{_target_: torch.load, f: evil.pt, weights_only: false}"
ALLOWED = "{_target_: torch.optim.SGD}"


@pytest.mark.parametrize(
    ("override", "setting"),
    [
        (f"optimizer.betas=[0.9,{EVIL}]", "optimizer.betas.1"),
        (f"optimizer.lr={EVIL}", "optimizer.lr"),
        (f"callbacks.samples.prompts=[{EVIL}]", "callbacks.samples.prompts.0"),
        (f"callbacks.samples.prompts=[{{a: [{ALLOWED}]}}]", "callbacks.samples.prompts.0.a.0"),
        (f"adapter.alpha={ALLOWED}", "adapter.alpha"),
        (f"data.folders=[{{path: /tmp, augment: {EVIL}}}]", "data.folders.0.augment"),
        (f"targets.patterns=[{{match: x, lr: {EVIL}}}]", "targets.patterns.0.lr"),
        (f"trainer.devices=[{EVIL}]", "trainer.devices.0"),
        (f"+objective.noise.a={EVIL}", "objective.noise.a._target_"),
        (f"+objective.noise.a.b={EVIL}", "objective.noise.a.b"),
        (f"+callbacks.mine={EVIL}", "callbacks.mine._target_"),
        (f"+callbacks.mine.inner={EVIL}", "callbacks.mine"),
        (f"+suggested.mine={EVIL}", "suggested.mine"),
        (f"resume={EVIL}", "resume"),
        (f"seed={EVIL}", "seed"),
        (f"output.comment={EVIL}", "output.comment"),
        ("+callbacks.mine._target_=lightning.pytorch.cli.LightningCLI", "callbacks.mine._target_"),
        ("+callbacks.mine._target_=lightning.pytorch.callbacks.LambdaCallback", "callbacks.mine._target_"),
        ("+logger.mine._target_=lightning.fabric.utilities.cloud_io._load", "logger.mine._target_"),
        ("optimizer._target_=torch.optim.lr_scheduler.os.system", "optimizer._target_"),
        ("optimizer._target_=bitsandbytes.optim.adamw.torch.load", "optimizer._target_"),
        ("trainer._target_=torch.optim.SGD", "trainer._target_"),
        ("objective.loss._target_=loralab.diffusion.noise.Offset", "objective.loss._target_"),
        ("output._target_=loralab.command.many.start_process", "output._target_"),
        ("adapter._target_=loralab.models.hub.os.system", "adapter._target_"),
        ("optimizer._target_=[os.system]", "optimizer._target_"),
        ("optimizer._target_=null", "optimizer._target_"),
        ("optimizer._target_=${oc.decode:os.system}", "optimizer._target_"),
        ("+optimizer._args_=[[1]]", "optimizer._args_"),
        ("+model._args_=[/tmp]", "model._args_"),
        ("+model._partial_=true", "model._partial_"),
        ("optimizer._partial_=false", "optimizer._partial_"),
        ("optimizer._partial_=1", "optimizer._partial_"),
        ("+objective._recursive_=false", "objective._recursive_"),
        ("+objective.loss._convert_=object", "objective.loss._convert_"),
        ("+hydra.callbacks.mine._target_=os.system", "hydra.callbacks.mine._target_"),
        ("hydra.launcher._target_=os.system", "hydra.launcher._target_"),
        ("allow=[.]", "allow"),
        ("allow=['']", "allow"),
    ],
)
def test_nothing_else_is_built(override: str, setting: str) -> None:
    assert setting in [line.split(": ")[0] for line in problems(override).splitlines()], problems(override)


def test_an_interpolation_hides_nothing() -> None:
    hidden = "'${oc.decode:\"{_target_: os.system, command: id}\"}'"
    assert "output.comment" in problems(f"output.comment={hidden}")
    assert "optimizer.betas" in problems(f"optimizer.betas=[0.9,{hidden}]")


def test_what_is_allowed() -> None:
    assert not problems("optimizer._target_=torch.optim.RAdam")
    assert not problems("+callbacks.rates._target_=lightning.pytorch.callbacks.LearningRateMonitor")
    assert not problems("+callbacks.mine._target_=tests.support.callbacks.Waits", "allow=[tests.]")
    assert not problems(
        "+callbacks.mine._target_=tests.support.callbacks.Waits", "allow=[tests.support.callbacks.Waits]"
    )
    assert "callbacks.mine._target_" in problems("+callbacks.mine._target_=tests_of_others.X", "allow=[tests]")


def test_a_settings_file_cannot_allow(tmp_path: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"loralab": {"choices": {}, "values": {"allow": ["os."]}}}))
    assert "allow" in problems(f"settings.load={file}", "model=tiny", "data=shapes")
