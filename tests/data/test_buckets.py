"""Buckets and crops: sd-scripts' numbers, and what is done where it has none."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loralab.data.buckets import Buckets, resolutions
from loralab.data.geometry import cover, crop_corner, mirrored
from loralab.errors import UserError
from tests import GOLDEN

CASES = json.loads((GOLDEN / "buckets.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['resolution']}-{c['min']}-{c['no_upscale']}")
def test_the_numbers_of_sd_scripts(case):
    buckets = Buckets(
        min_resolution=case["min"], max_resolution=case["max"], step=case["steps"], no_upscale=case["no_upscale"]
    )
    resolution = (case["resolution"], case["resolution"])
    if not case["no_upscale"]:
        assert buckets.sizes(resolution) == [tuple(size) for size in case["predefined_resos"]]
    for width, height, bucket_width, bucket_height, resized_width, resized_height, aspect_error in case["rows"]:
        bucket, resized = buckets.assign(width, height, resolution)
        assert (bucket, resized) == ((bucket_width, bucket_height), (resized_width, resized_height)), (width, height)
        assert bucket[0] / bucket[1] - width / height == aspect_error


sides = st.integers(1, 30_000)


@given(
    sides, sides, st.sampled_from([64, 256, 500, 512, 768, 1024]), st.sampled_from([8, 32, 64, 72]), st.booleans(),
    st.sampled_from([None, 8, 100, 256]), st.sampled_from([None, 1024, 1100, 2048]),
)  # fmt: skip
def test_every_image_gets_a_bucket_that_it_covers(width, height, side, step, no_upscale, low, high):
    low = low and min(low, side)
    buckets = Buckets(step=step, no_upscale=no_upscale, min_resolution=low, max_resolution=high)
    bucket, resized = buckets.assign(width, height, (side, side))
    assert bucket[0] % step == bucket[1] % step == 0 < min(bucket)
    assert bucket[0] <= resized[0]
    assert bucket[1] <= resized[1]
    assert bucket[0] * bucket[1] <= max(side, step) ** 2 * (1.3 if no_upscale else 1)
    if no_upscale and min(width, height) >= step and max(width, height) / min(width, height) < side / step:
        assert resized[0] <= width
        assert resized[1] <= height


@pytest.mark.parametrize(
    ("size", "bucket", "resized"),
    [
        ((1, 1), (64, 64), (64, 64)),
        ((100, 40), (128, 64), (160, 64)),  # one side under a step: enlarged to one step
        ((1, 20_000), (64, 4096), (64, 1_280_000)),  # the long side is cut to the area
        ((20_000, 20), (4096, 64), (64_000, 64)),
        ((63, 5000), (64, 4096), (64, 5079)),
    ],
)
def test_no_upscale_has_an_answer_for_slivers(size, bucket, resized):
    assert Buckets(no_upscale=True).assign(*size, (512, 512)) == (bucket, resized)


def test_limits_follow_the_resolution_and_the_step():
    sizes = Buckets().sizes((1024, 1024))
    assert {min(size) for size in sizes} == {512, 576, 640, 704, 768, 832, 896, 960, 1024}
    assert max(max(size) for size in sizes) == 2048
    assert Buckets().sizes((768, 341)) == Buckets().sizes((341, 768)), "a list [w, h] is a pixel budget"
    limited = Buckets(min_resolution=300, max_resolution=1000, step=64).sizes((512, 512))
    assert min(map(min, limited)) == 256, "rounded down to the step"
    assert max(map(max, limited)) == 1024, "rounded up to the step"
    fine = Buckets(step=8).sizes((64, 64))
    assert (64, 64) in fine
    assert len(fine) > len(Buckets(step=32).sizes((64, 64)))


def test_without_buckets_the_short_side_is_resized_and_the_centre_cropped():
    bucket, resized = Buckets(enabled=False).assign(1000, 600, (512, 512))
    assert (bucket, resized) == ((512, 512), (853, 512))
    assert crop_corner(resized, bucket) == (0, 170)
    assert Buckets(enabled=False).assign(1000, 600, (512, 768)) == ((512, 768), (1280, 768))


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: Buckets(step=60), "data.buckets.step"),
        (lambda: Buckets(min_resolution=600).sizes((512, 512)), "data.buckets.min_resolution"),
        (lambda: Buckets(max_resolution=448).sizes((512, 512)), "data.buckets.max_resolution"),
        (lambda: Buckets(enabled=False).sizes((500, 500)), "data.resolution"),
        (lambda: resolutions([512, [1, 2, 3]]), "data.resolution"),
        (lambda: resolutions([]), "data.resolution"),
    ],
)
def test_what_cannot_work_names_the_setting(make, setting):
    with pytest.raises(UserError) as error:
        make()
    assert error.value.problems[0].setting == setting


@pytest.mark.parametrize(
    ("value", "sizes"),
    [
        (512, [(512, 512)]),
        ([768, 512], [(768, 512)]),
        ([512, 768, 1024], [(512, 512), (768, 768), (1024, 1024)]),
        ([[512, 512], [768, 512]], [(512, 512), (768, 512)]),
        ([512, [768, 512]], [(512, 512), (768, 512)]),
        ([512], [(512, 512)]),
    ],
)
def test_resolutions(value, sizes):
    assert resolutions(value) == sizes


def test_merging_moves_thin_buckets_to_the_nearest_shape():
    counts = {(512, 512): 40, (640, 384): 3, (384, 640): 2, (320, 704): 40}
    merged = Buckets(partial="merge").merged(counts, lambda _: 4)
    assert merged == {(640, 384): (512, 512), (384, 640): (320, 704)}
    assert Buckets(partial="merge").merged({(8, 8): 1, (8, 16): 2}, lambda _: 4) == {(8, 8): (8, 16)}
    own = Buckets(partial="merge", no_upscale=True)
    assert own.merged({(512, 512): 40, (448, 576): 1, (576, 512): 1}, lambda _: 4) == {(576, 512): (512, 512)}


def test_crops():
    assert crop_corner((520, 515), (512, 512)) == (1, 4)
    corners = {crop_corner((514, 513), (512, 512), random.Random(seed)) for seed in range(100)}
    assert corners == {(top, left) for top in range(2) for left in range(3)}
    assert mirrored((1, 3), (520, 515), (512, 512)) == (1, 5)
    assert cover((300, 200), (640, 384)) == (640, 427)
