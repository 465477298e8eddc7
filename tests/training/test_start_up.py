"""How long the start of a run took, by its stages."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from loralab.stages import Stages, told
from tests.support.runs import record

STAGES = ["settings", "imports", "index", "model", "adapter", "device", "caches", "samples", "first step"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it is when the module was imported")
def test_a_process_knows_when_it_started() -> None:
    before = time.time()
    words = "import time; time.sleep(0.3); from loralab.stages import process_start; print(process_start())"
    said = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True).stdout
    assert before - 0.02 < float(said) < before + 0.25


def test_stages_take_all_the_time_between_them() -> None:
    begun = time.time()
    stages = Stages(begun - 2)
    stages.end("before")
    time.sleep(0.1)
    stages.end("one")
    time.sleep(0.2)
    stages.end("other")
    stages.end("one")
    assert list(stages.seconds) == ["before", "one", "other"]
    assert stages.seconds["before"] == pytest.approx(2, abs=0.05)
    assert 0.1 <= stages.seconds["one"] < 0.2 <= stages.seconds["other"]
    assert sum(stages.seconds.values()) == pytest.approx(time.time() - begun + 2, abs=0.05)
    assert told({"model": 1.26, "caches": 0.01, "first step": 2.0}) == "3.3 s (model 1.3, first step 2.0)"


@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_run_records_the_stages_of_its_start(train, accumulated: int, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.time()
    folder: Path = train("callbacks.samples.enabled=true", f"trainer.accumulate_grad_batches={accumulated}")
    found = record(folder)["start_seconds"]
    assert list(found) == STAGES
    assert all(seconds >= 0 for seconds in found.values())
    assert 0 < found["samples"] < sum(found.values()) < time.time() - begun
    assert f"first step after {told(found)}" in capsys.readouterr().out
