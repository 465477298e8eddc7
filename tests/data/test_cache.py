"""Latents that are encoded once: the same as fresh ones, never stale, and whole whatever happens meanwhile."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from loralab.data import images
from loralab.data.cache import Cache
from loralab.data.decoding import Job, View
from loralab.errors import UserError
from tests import ROOT
from tests.support.latents import CENTRE, Encoder, disk, job_of, make_jobs, noise


@pytest.fixture
def encoder(random_family) -> Encoder:
    return Encoder(random_family)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    return make_jobs(tmp_path / "images", 6)


def look_up(cache: Cache, job: Job, view: View = CENTRE[0]) -> tuple[Tensor, Tensor]:
    return cache.lookup(job.digest, job.bucket, job.resized, view)


def fresh(family, job: Job, view: View) -> tuple[Tensor, Tensor]:
    """The posterior of one view, without any cache."""
    (top, left), flip = view
    pixels = images.read(job.path)[0][top : top + job.bucket[1], left : left + job.bucket[0]]
    pixels = (pixels[:, ::-1] if flip else pixels).copy()
    mean, std = family.encode_image(torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 * 2 - 1)
    return mean[0], std[0]


def test_a_latent_is_the_same_in_every_batch(encoder: Encoder) -> None:
    pixels = torch.rand(5, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = encoder.encode_image(pixels)
    for size in (1, 2, 3):
        parts = [encoder.encode_image(part) for part in pixels.split(size)]
        for i in range(2):
            assert torch.equal(torch.cat([part[i] for part in parts]), whole[i])


def test_a_cache_that_is_emptied_during_a_run_is_one_message(tmp_path: Path, encoder: Encoder, jobs: list[Job]) -> None:
    import shutil

    cache = disk(tmp_path)
    cache.fill(jobs, encoder)
    other = pickle.loads(pickle.dumps(cache))
    assert look_up(cache, jobs[0])[0].shape == (4, 8, 10)
    shutil.rmtree(tmp_path / "cache")
    for user in (cache, other):
        with pytest.raises(UserError, match="while it was in use"):
            look_up(user, jobs[0])


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_cached_posteriors_are_the_fresh_ones(tmp_path: Path, encoder: Encoder, where: str, workers: int) -> None:
    views = (View((0, 0)), View((0, 0), True), View((0, 9)), View((0, 9), True))
    jobs = [job for job in make_jobs(tmp_path / "images", 4, views) if job.bucket == (64, 64)]
    cache = Cache(where, folder=str(tmp_path / "cache"))  # type: ignore[arg-type]
    assert cache.fill(jobs, encoder, batch_size=8, workers=workers) == (2, {})  # type: ignore[arg-type]
    assert encoder.encoded == 8
    for job in jobs:
        for view in views:
            for cached, expected in zip(look_up(cache, job, view), fresh(encoder.family, job, view), strict=True):
                torch.testing.assert_close(cached, expected, rtol=1e-5, atol=1e-6)
    copy = pickle.loads(pickle.dumps(cache))
    assert torch.equal(look_up(copy, jobs[0])[0], look_up(cache, jobs[0])[0])


def test_batches_are_of_one_bucket(tmp_path: Path, encoder: Encoder, jobs: list[Job]) -> None:
    disk(tmp_path).fill(jobs, encoder, batch_size=2)  # type: ignore[arg-type]
    assert Counter(encoder.batches) == Counter(
        {(2, 3, 64, 80): 1, (1, 3, 64, 80): 1, (2, 3, 64, 64): 1, (1, 3, 64, 64): 1}
    )


def test_the_disk_keeps_latents_for_other_runs_in_few_files(tmp_path: Path, encoder: Encoder, jobs: list[Job]) -> None:
    first = disk(tmp_path)
    first.fill(jobs, encoder)  # type: ignore[arg-type]
    again = disk(tmp_path)
    again.fill(jobs, encoder)  # type: ignore[arg-type]
    assert encoder.encoded == 6
    assert torch.equal(look_up(first, jobs[3])[0], look_up(again, jobs[3])[0])
    assert len(list((tmp_path / "cache" / "latents").glob("*.shard"))) == 1


def test_only_what_has_changed_is_encoded(tmp_path: Path, encoder: Encoder, jobs: list[Job]) -> None:
    def newly_encoded(jobs: list[Job]) -> int:
        encoder.batches.clear()
        disk(tmp_path).fill(jobs, encoder)  # type: ignore[arg-type]
        return encoder.encoded

    assert newly_encoded(jobs) == 6
    edited = job_of(noise(Path(jobs[1].path), 99), 1)
    assert newly_encoded([jobs[0], edited, *jobs[2:]]) == 1
    assert newly_encoded([job_of(noise(tmp_path / "images" / "new.png", 50), 0), *jobs[2:]]) == 1
    assert newly_encoded([jobs[0]._replace(bucket=(64, 64)), *jobs[2:]]) == 1
    assert newly_encoded([jobs[0]._replace(views=(View((0, 0)), View((0, 0), True)))]) == 1
    moved = Path(jobs[2].path).rename(tmp_path / "images" / "moved.png")
    assert newly_encoded([job_of(moved, 2)]) == 0
    encoder.vae_id = "another"
    assert newly_encoded(jobs[3:]) == 3


def test_variants_are_crops_that_all_runs_share(tmp_path: Path) -> None:
    cache = Cache("disk", variants=3, folder=str(tmp_path))
    corners = cache.corners("abc", (90, 80), (64, 64), random_crop=True)
    assert len(set(corners)) == 3
    assert all(0 <= top <= 16 and 0 <= left <= 26 for top, left in corners)
    assert corners == Cache("memory", variants=3).corners("abc", (90, 80), (64, 64), random_crop=True)
    assert corners != cache.corners("abd", (90, 80), (64, 64), random_crop=True)
    assert cache.corners("abc", (90, 80), (64, 64), random_crop=False) == [(8, 13)]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_edited_after_it_was_hashed_is_not_kept_under_its_old_hash(
    tmp_path: Path, encoder: Encoder, jobs: list[Job], workers: int
) -> None:
    old = jobs[2]
    noise(Path(old.path), 99)
    filled = disk(tmp_path).fill(jobs, encoder, workers=workers)  # type: ignore[arg-type]
    assert filled.made == 5
    assert filled.failed.keys() == {2}
    assert "changed" in filled.failed[2]
    noise(Path(old.path), 2)
    cache = disk(tmp_path)
    assert cache.fill(jobs, encoder).made == 1, "the old bytes are back, and nothing is known of them"
    torch.testing.assert_close(look_up(cache, old)[0], fresh(encoder.family, old, CENTRE[0])[0], rtol=1e-5, atol=1e-6)


def test_images_that_cannot_be_decoded_are_named(tmp_path: Path, encoder: Encoder, jobs: list[Job]) -> None:
    Path(jobs[2].path).write_bytes(b"no image")
    Path(jobs[4].path).unlink()
    made, failed = disk(tmp_path).fill(jobs, encoder, batch_size=4, workers=1)  # type: ignore[arg-type]
    assert made == encoder.encoded
    assert failed == {2: "is not an image of a supported format", 4: "not found"}
    assert encoder.encoded == 4


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_shard_is_made_again(
    tmp_path: Path, encoder: Encoder, jobs: list[Job], damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = disk(tmp_path)
    cache.fill(jobs, encoder)  # type: ignore[arg-type]
    expected = [look_up(cache, job) for job in jobs]
    (shard,) = (tmp_path / "cache" / "latents").glob("*.shard")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "gone":
        shard.unlink()
    else:
        shard.write_bytes(data if damage == "flipped" else data[: len(data) // 2])
    encoder.batches.clear()
    again = disk(tmp_path)
    again.fill(jobs, encoder)  # type: ignore[arg-type]
    assert {"flipped": 1, "cut": 3, "gone": 6}[damage] <= encoder.encoded <= {"flipped": 1, "cut": 4, "gone": 6}[damage]
    assert "damaged" in caplog.text
    for job, latent in zip(jobs, expected, strict=True):
        torch.testing.assert_close(look_up(again, job), latent, rtol=1e-5, atol=1e-6)


def test_damage_during_a_run_is_not_trusted_and_made_again_by_the_next(
    tmp_path: Path, encoder: Encoder, jobs: list[Job]
) -> None:
    cache = disk(tmp_path)
    cache.fill(jobs, encoder)  # type: ignore[arg-type]
    (shard,) = (tmp_path / "cache" / "latents").glob("*.shard")
    before = shard.stat()
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(UserError, match="resume"):
        _ = [look_up(cache, job) for job in jobs]
    encoder.batches.clear()
    cache.fill(jobs, encoder)  # type: ignore[arg-type]
    assert encoder.encoded == 1


def test_a_full_disk_is_one_message_and_keeps_what_is_done(tmp_path: Path, encoder: Encoder, jobs: list[Job]) -> None:
    """A limit on the size of files stands in for the disk."""
    cache = disk(tmp_path)
    cache.fill(jobs[:2], encoder)  # type: ignore[arg-type]
    (shard,) = (tmp_path / "cache" / "latents").glob("*.shard")
    size = shard.stat().st_size
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(size + 100, 40_000), hard))
    try:
        with pytest.raises(UserError, match="full") as error:
            cache.fill(jobs * 1 + make_jobs_for_limit(tmp_path), encoder)  # type: ignore[arg-type]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert error.value.problems[0].setting == "data.cache.folder"
    encoder.batches.clear()
    again = disk(tmp_path)
    again.fill(jobs[:2], encoder)  # type: ignore[arg-type]
    assert encoder.encoded == 0
    again.fill(jobs, encoder)  # type: ignore[arg-type]
    for job in jobs:
        torch.testing.assert_close(look_up(again, job), fresh(encoder.family, job, CENTRE[0]), rtol=1e-5, atol=1e-6)


def make_jobs_for_limit(tmp_path: Path) -> list[Job]:
    """So many that their latents do not fit under the limit."""
    return make_jobs(tmp_path / "more", 40)


FILLING = """
import sys, time
from pathlib import Path
from loralab.models.families.sd import load
sys.path.insert(0, {root!r})
from tests.support.latents import Encoder, disk, make_jobs

class Slow(Encoder):
    def encode_image(self, pixels):
        time.sleep(0.05)
        result = super().encode_image(pixels)
        print("batch", flush=True)
        return result

folder = Path(sys.argv[1])
encoder = Slow(load({base!r}, resolution=64))
jobs = make_jobs(folder / "images", 16)
print("ready", flush=True)
disk(folder).fill(jobs, encoder, batch_size=2)
print("done", encoder.encoded, flush=True)
"""


def filling(tmp_path: Path, base: Path) -> subprocess.Popen:
    code = FILLING.format(root=str(ROOT), base=str(base))
    return subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)


def test_a_killed_run_loses_at_most_one_batch(tmp_path: Path, random_base: Path, encoder: Encoder) -> None:
    process = filling(tmp_path, random_base)
    assert process.stdout is not None
    begun = 0
    for line in process.stdout:
        begun += line == "batch\n"
        if begun == 5:
            process.kill()  # SIGKILL
            break
    process.wait()
    jobs = make_jobs(tmp_path / "images", 16)
    cache = disk(tmp_path)
    cache.fill(jobs, encoder)  # type: ignore[arg-type]
    # of five batches of two the last may not have been written yet, or others may have followed before the signal
    assert encoder.encoded <= 16 - 2 * 4
    for job in jobs[::7]:
        torch.testing.assert_close(look_up(cache, job), fresh(encoder.family, job, CENTRE[0]), rtol=1e-5, atol=1e-6)


def test_two_runs_at_once_share_the_work(tmp_path: Path, random_base: Path, encoder: Encoder) -> None:
    """One in a process of its own, one in this."""
    jobs = make_jobs(tmp_path / "images", 16)
    with filling(tmp_path, random_base) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "ready\n"
        cache = disk(tmp_path)
        cache.fill(jobs, encoder, batch_size=2)  # type: ignore[arg-type]
        done = other.communicate(timeout=550)[0].split()[-1]
    assert other.returncode == 0
    assert encoder.encoded + int(done) == 16, "nothing is encoded twice"
    assert encoder.encoded
    assert int(done)
    before = encoder.encoded
    cache = disk(tmp_path)
    cache.fill(jobs, encoder)  # type: ignore[arg-type]
    assert encoder.encoded == before, "nothing is left to be done"
    for job in jobs[::7]:
        torch.testing.assert_close(look_up(cache, job), fresh(encoder.family, job, CENTRE[0]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_texts_are_cached_too(tmp_path: Path, encoder: Encoder, where: str) -> None:
    captions = ["a sks star", "", "a sks star", "été"]
    cache = Cache(where, text=True, folder=str(tmp_path / "cache"))  # type: ignore[arg-type]
    cache.fill_texts(captions, encoder)  # type: ignore[arg-type]
    assert sorted(encoder.captions) == ["", "a sks star", "été"]
    for caption in captions:
        expected = encoder.family.encode_text([caption])
        text = cache.lookup_text(caption)
        torch.testing.assert_close(text.hidden, expected.hidden, rtol=1e-5, atol=1e-6)
        assert text.pooled is None
    cache.fill_texts(captions, encoder)  # type: ignore[arg-type]
    assert len(encoder.captions) == 3
    encoder.text_id = "another text encoder"
    cache.fill_texts(captions, encoder)  # type: ignore[arg-type]
    assert len(encoder.captions) == 6


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_with_cached_texts_trains_the_same(train, precision: str) -> None:
    """Whichever captions a step reads, in training's precision: its own, the empty, the preserved one."""
    given = ["targets=unet_only", "data.cache.latents=memory", "data.captions.dropout_rate=0.3", "optimizer=sgd"]
    given += [
        f"trainer.precision={precision}",
        "objective.preservation_weight=1",
        "objective.preservation_caption=star",
    ]
    found = [train(*given, f"data.cache.text={text}", name=text) for text in ("true", "false")]
    cached, fresh = (load_file(run / "adapter.safetensors") for run in found)
    for name, tensor in fresh.items():
        torch.testing.assert_close(cached[name], tensor, rtol=1e-4, atol=1e-6)


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path: Path, encoder: Encoder, jobs: list[Job]) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    with pytest.raises(UserError, match="cannot be used"):
        disk(tmp_path).fill(jobs, encoder)  # type: ignore[arg-type]


def test_time_spent_on_a_full_cache_is_small(tmp_path: Path, encoder: Encoder) -> None:
    """Nothing is decoded or read for what is there: not even the images need be."""
    jobs = make_jobs(tmp_path / "images", 6)
    disk(tmp_path).fill(jobs, encoder)  # type: ignore[arg-type]
    for job in jobs:
        Path(job.path).unlink()
    start = time.perf_counter()
    assert disk(tmp_path).fill(jobs, encoder, workers=0) == (0, {})  # type: ignore[arg-type]
    assert time.perf_counter() - start < 10
