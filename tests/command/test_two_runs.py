"""Two runs, as of two machines with a common disk, that begin at the same time."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.support.processes import Processes
from tests.support.runs import adapter, words

IMAGES = 120


@pytest.mark.slow
@pytest.mark.ci
def test_two_runs_fill_one_cache_without_doing_work_twice(random_base: Path, tmp_path: Path) -> None:
    """Each encodes some of the images; both train on all of them, as a run alone does."""
    numbers = random.Random(0)
    (tmp_path / "images").mkdir()
    for number in range(IMAGES):
        Image.frombytes("RGB", (256, 256), numbers.randbytes(256 * 256 * 3)).save(tmp_path / "images" / f"{number}.png")
    data = ("data=folder", f"data.folder={tmp_path / 'images'}", "data.cache.latents=disk", "data.num_workers=0")
    given = (*data, "adapter.rank=2", "trainer.devices=1")

    def begin(name: str, cache: str = "common") -> Processes:
        place = f"data.cache_folder={tmp_path / cache}"
        return Processes(tmp_path / f"{name}-logs", words(random_base, tmp_path / name, *given, place), world=1)

    runs = [begin("first"), begin("second")]
    assert [run.wait() for run in runs] == [[0], [0]], "\n".join(run.said() for run in runs)
    found = [re.search(rf"latents   (\d+) of {IMAGES} were cached, (\d+) encoded", run.said()) for run in runs]
    encoded = [int(match[2]) for match in found if match]
    assert sum(encoded) == IMAGES
    assert all(encoded), "each has a share"
    alone = begin("alone", cache="own")
    assert alone.wait() == [0], alone.said()
    assert adapter(tmp_path / "first") == adapter(tmp_path / "second") == adapter(tmp_path / "alone")
