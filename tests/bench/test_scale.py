"""`loralab bench scale`: what several devices wait for."""

import json

import pytest

from loralab import cli


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["ddp", "fsdp"])
def test_two_devices_are_measured_against_one(trainer: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"--trainer={trainer}", "--devices=2", "--steps=3", "--warmup=1", "--rank=4", "--targets=unet_only"]
    with pytest.raises(SystemExit) as ended:
        cli.main(["bench", "scale", *given])
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert len(found["ranks"]) == 2
    assert found["images_per_second"] == pytest.approx(sum(rank["images_per_second"] for rank in found["ranks"]), 1e-3)
    assert found["efficiency"] == pytest.approx(
        found["images_per_second"] / 2 / found["one"]["images_per_second"], 1e-2
    )
    for rank in found["ranks"]:
        waits = [rank[f"seconds_{what}"] for what in ("waiting_for_data", "waiting_for_others", "of_exchange")]
        assert all(0 < seconds < rank["seconds_per_step"] for seconds in waits)
        assert rank["bytes_exchanged"] == found["ranks"][0]["bytes_exchanged"] > 4 * 10_000
    assert "bytes_exchanged" not in found["one"]
