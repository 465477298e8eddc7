"""Which GPU a process of a sweep takes, where several are visible."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from loralab.gpus import least_taken, visible_gpus

TAKE = """
import os, sys; from pathlib import Path; from loralab.gpus import take_gpu
print(take_gpu(Path(sys.argv[1])), os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True); input()
"""


class Process:
    """One that takes a GPU, and keeps it until it is killed."""

    def __init__(self, folder: Path, visible: str) -> None:
        given = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
        words = [sys.executable, "-c", TAKE, str(folder)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=given)
        assert self.process.stdout
        self.taken, self.visible = self.process.stdout.readline().split()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_each_process_takes_one_and_frees_it_however_it_ends(tmp_path: Path) -> None:
    processes = [Process(tmp_path, "2,GPU-5") for _ in range(3)]
    assert [process.taken for process in processes] == ["2", "GPU-5", "2"], "the third shares the first"
    assert [process.visible for process in processes] == ["2", "GPU-5", "2"]
    processes[1].kill()
    processes.append(Process(tmp_path, "2,GPU-5"))
    assert processes[-1].taken == "GPU-5"
    for process in processes:
        process.kill()


@pytest.mark.parametrize("visible", ["3", "-1"])
def test_one_gpu_or_none_is_left_as_it_is(tmp_path: Path, visible: str) -> None:
    process = Process(tmp_path, visible)
    assert (process.taken, process.visible) == ("None", visible)
    process.kill()


@pytest.mark.parametrize(("taken", "expected"), [([], "a"), (["a.0"], "b"), (["a.0", "b.0"], "a")])
def test_the_least_taken(taken: list[str], expected: str) -> None:
    assert least_taken(["a", "b"], lambda place: place not in taken) == expected


@pytest.mark.parametrize(("given", "expected"), [("0,1", ["0", "1"]), ("", []), ("-1", []), (" 3", ["3"])])
def test_what_is_visible(monkeypatch: pytest.MonkeyPatch, given: str, expected: list[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert visible_gpus() == expected
