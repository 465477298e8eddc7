"""Batches: of one bucket, each draw once, in an order that seed and epoch decide, wherever one starts and however many
devices there are."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loralab.data.buckets import Buckets
from loralab.data.epoch.draws import BatchSize, Draws
from loralab.data.epoch.sampler import BucketSampler
from loralab.data.validation import fixed_batches, held_out
from loralab.types import Draw, Item

SHAPES = [(512, 512)] * 5 + [(640, 384)] * 3 + [(384, 640)]


def images(count=45, repeats=1, is_reg=False, shapes=SHAPES):
    name = "reg" if is_reg else "train"
    return [
        Item(f"/{name}/{i}.png", *shapes[i % len(shapes)], caption=f"{name} {i}", repeats=repeats, is_reg=is_reg)
        for i in range(count)
    ]


def draws(items, batch=4, sizes=((512, 512),), pixels=None, **buckets):
    return Draws(items, sizes, Buckets(**buckets), BatchSize(batch, pixels))


def indices(batches):
    return [[place.draw.index for place in batch] for batch in batches]


@pytest.fixture
def plan():
    return draws(images(45, repeats=3) + images(20, is_reg=True))


def test_each_draw_once_in_batches_of_one_bucket(plan):
    batches = list(BucketSampler(plan, seed=0))
    assert len(batches) == len(BucketSampler(plan, seed=0))
    assert sorted(index for batch in indices(batches) for index in batch) == list(range(len(plan)))
    assert all(len({plan[place.draw].bucket for place in batch}) == 1 for batch in batches)
    sizes = Counter(map(len, batches))
    assert set(sizes) <= {1, 2, 3, 4}
    assert sum(sizes.values()) - sizes[4] <= len(plan.groups), "one batch of a bucket may be smaller"


def test_repeats_are_draws_of_their_own():
    plan = draws([*images(2, repeats=5), *images(1)])
    seen = Counter(plan[place.draw].item.repeats for batch in BucketSampler(plan, 0) for place in batch)
    assert seen == {5: 10, 1: 1}


def test_the_order_is_a_function_of_seed_and_epoch(plan):
    def order(seed, epoch):
        sampler = BucketSampler(plan, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(0, 0) == order(0, 0)
    assert all(place.draw.epoch == 3 for batch in order(0, 3) for place in batch)
    orders = [str(indices(order(seed, epoch))) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_one_may_start_in_the_middle_of_an_epoch(plan):
    whole, resumed = BucketSampler(plan, 0), BucketSampler(plan, 0)
    whole.set_epoch(2)
    resumed.resume(2, 7)
    assert list(resumed) == list(whole)[7:]
    assert list(resumed) == list(whole)[7:], "asking twice changes nothing"
    assert len(resumed) == len(whole), "the epoch is as long as ever"
    for sampler in (whole, resumed):
        sampler.sampler.set_epoch(3)  # as Lightning does
    assert list(resumed) == list(whole)


@given(
    counts=st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4), st.booleans()), max_size=3),
    batch=st.integers(1, 7), world=st.integers(1, 5), epoch=st.integers(0, 3), data=st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_ranks_together_see_what_one_device_would(counts, batch, world, epoch, data):
    """Of whatever images, repeats, buckets and devices, each draw is seen once, and a run may stop anywhere."""
    shapes = [(512, 512), (640, 384), (384, 640)]
    items = [*images(1), *(i for given, shape in zip(counts, shapes, strict=False) for i in images(*given, [shape]))]
    plan = draws(items, batch=batch)
    single = BucketSampler(draws(items, batch=batch * world), 0)
    ranks = [BucketSampler(plan, 0, rank=rank, world=world) for rank in range(world)]
    position = data.draw(st.integers(0, len(single)))
    for sampler in (single, *ranks):
        sampler.set_epoch(epoch)
        whole = list(sampler)
        sampler.resume(epoch, position)
        assert list(sampler) == whole[position:]
        sampler.resume(epoch, 0)
    assert sorted(place.draw for batch in single for place in batch) == [Draw(epoch, n) for n in range(len(plan))]
    for whole, *parts in zip(single, *ranks, strict=True):
        assert all(parts), "no rank is without a batch"
        counted = [place.draw for part in parts for place in part if place.share > 0]
        assert sorted(counted) == sorted(place.draw for place in whole)
        # each rank takes the mean of its losses, and the gradients are the mean over ranks
        means = [sum(place.draw.index * place.share for place in part) / len(part) for part in parts]
        assert sum(means) / world == pytest.approx(sum(place.draw.index for place in whole) / len(whole))


@given(count=st.integers(1, 60), batch=st.integers(1, 7), world=st.integers(1, 3), parts=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_the_parts_of_a_batch_are_the_batch(count, batch, world, parts):
    """On each rank, in place of each batch its parts, whose shares make up for their sizes."""
    plan = draws(images(count), batch=batch)
    for rank in range(world):
        whole = list(BucketSampler(plan, 0, rank=rank, world=world))
        sampler = BucketSampler(plan, 0, rank=rank, world=world, parts=parts, accumulate=parts)
        split = list(sampler)
        assert len(split) == len(sampler) == len(whole) * parts
        for number, one in enumerate(whole):
            own = split[number * parts : (number + 1) * parts]
            assert {place.step for part in own for place in part} == {number}
            counted = [place.draw for part in own for place in part if place.share > 0]
            assert sorted(counted) == sorted(place.draw for place in one if place.share > 0)
            means = [sum(place.draw.index * place.share for place in part) / len(part) for part in own]
            expected = sum(place.draw.index * place.share for place in one) / len(one)
            assert sum(means) / parts == pytest.approx(expected)


def test_steps_count_the_accumulated_batches(plan):
    sampler = BucketSampler(plan, 0, accumulate=4)
    steps = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        steps += [batch[0].step for batch in sampler]
    assert steps[:9] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    an_epoch = -(-len(sampler) // 4)
    assert steps[len(sampler)] == an_epoch, "an epoch's last window is a step though it is not full"
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(steps))


def test_as_many_regularisation_images_as_training_images_in_turn():
    for count in (7, 20, 400):
        plan = draws(images(45, repeats=3) + images(count, is_reg=True))
        drawn = [Counter() for _ in range(6)]
        for epoch in range(6):
            items = [plan[Draw(epoch, index)].item for index in range(len(plan))]
            assert sum(item.is_reg for item in items) == 135 == plan.training
            drawn[epoch].update(item.path for item in items if item.is_reg)
        total = sum(drawn, Counter())
        assert len(total) == count, "every one has its turn"
        assert max(total.values()) - min(total.values()) <= 6, "no more than one apart in an epoch"
        assert plan.unused_regularisation == 0


def test_regularisation_repeats_weigh():
    plan = draws(images(90, shapes=[(512, 512)]) + images(2, 1, True, [(512, 512)]) + images(2, 2, True, [(512, 512)]))
    total = Counter(plan[Draw(0, index)].item.repeats for index in range(90, 180))
    assert total == {1: 30, 2: 60}


def test_every_epoch_has_the_same_batches_to_fill():
    plan = draws(images(45) + images(31, is_reg=True))
    for epoch in range(4):
        sampler = BucketSampler(plan, 0)
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(len({plan[place.draw].bucket for place in batch}) == 1 for batch in batches)


def test_a_pixel_budget_gives_small_buckets_large_batches():
    shapes = [(512, 512), (256, 256)]
    plan = draws(images(64, shapes=shapes), pixels=4 * 512 * 512, no_upscale=True)
    largest = Counter()
    for batch in BucketSampler(plan, 0):
        bucket = plan[batch[0].draw].bucket
        largest[bucket] = max(largest[bucket], len(batch))
    assert largest == {(512, 512): 4, (256, 256): 16}


def test_several_resolutions_train_each_image_at_each():
    plan = draws(images(9, repeats=2), sizes=[(512, 512), (256, 256)])
    seen = Counter((plan[Draw(0, i)].item.path, max(plan[Draw(0, i)].bucket) > 400) for i in range(len(plan)))
    assert set(seen.values()) == {2}
    assert len(seen) == 18


def test_batches_that_are_not_full_can_be_dropped():
    plan = draws(images(45, repeats=3), partial="drop")
    sampler = BucketSampler(plan, 0, full_only=True)
    left_out = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        batches = indices(sampler)
        assert {len(batch) for batch in batches} == {4}
        assert len(plan) - sum(map(len, batches)) == sampler.left_out > 0
        left_out |= set(range(len(plan))) - {index for batch in batches for index in batch}
    assert len(left_out) > 20, "other ones each epoch"


def test_thin_buckets_can_be_merged():
    items = images(40, shapes=[(512, 512)]) + images(2, shapes=[(640, 384)])
    kept, merged = draws(items), draws(items, partial="merge")
    assert {group.bucket for group in kept.groups} == {(512, 512), (640, 384)}
    assert {group.bucket for group in merged.groups} == {(512, 512)}
    assert (kept.moved, merged.moved) == (0, 2)
    for entry in merged.entries():
        assert entry.resized in ((512, 512), (853, 512)), "resized anew to cover the bucket"


def test_captions_can_be_batched_by_their_length():
    items = images(40, shapes=[(512, 512)])
    long = {item.path for item in items[::3]}
    plan = Draws(items, [(512, 512)], Buckets(), BatchSize(4), chunks=lambda item: 2 if item.path in long else 1)
    for batch in BucketSampler(plan, 0):
        assert len({plan[place.draw].item.path in long for place in batch}) == 1


def test_images_held_out_stay_the_same_when_others_come_and_go():
    items = images(200) + images(20, is_reg=True)
    out = {items[i].path for i in held_out(items, 0.2)}
    assert 25 < len(out) < 55
    fewer = items[::2]
    assert {fewer[i].path for i in held_out(fewer, 0.2)} == out & {item.path for item in fewer}
    assert held_out(items, 0.0) == held_out(items[:1], 0.5) == []
    assert len(held_out(items[:2], 0.001)) == len(held_out(items[:2], 1.0)) == 1
    assert not any(items[i].is_reg for i in held_out(items, 1.0))


def test_fixed_batches_hold_every_draw(plan):
    batches = fixed_batches(plan)
    assert sorted(index for batch in indices(batches) for index in batch) == list(range(len(plan)))
    assert all(len({plan[place.draw].bucket for place in batch}) == 1 for batch in batches)
