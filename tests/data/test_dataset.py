"""From files to batches, with every data setting that changes what a batch holds."""

import os
import random

import numpy as np
import pytest
import torch
from PIL import Image

from loralab.data.augment import Augment, jitter
from loralab.data.buckets import Buckets
from loralab.data.cache import Cache
from loralab.data.captions import Captions
from loralab.data.module import DataModule
from loralab.data.validation import Validation
from loralab.errors import UserError
from loralab.models.families.sd import load
from loralab.types import Draw


def picture(path, size=(80, 64), mode="RGB", seed=0, caption=None):
    """An image of random blocks, so that crops, flips and colours can be told."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, len(mode)), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise.squeeze(), mode).resize(size, Image.Resampling.NEAREST).save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf8")
    return path


@pytest.fixture
def folder(tmp_path):
    for i in range(6):
        size = (64, 64) if i % 2 else (96, 64)
        picture(tmp_path / "images" / "2_sks star" / f"{i}.png", size, seed=i, caption=f"sks, tag {i}, red, blue")
    picture(tmp_path / "images" / "plain.png", seed=9)
    return tmp_path / "images"


@pytest.fixture
def make(random_family, tmp_path):
    def build(
        folder=None,
        *,
        family=random_family,
        seed=0,
        captions=None,
        augment=None,
        buckets=None,
        cache=None,
        validation=None,
        **settings,
    ):
        settings = {"resolution": 64, "batch_size": 2, "cache_folder": str(tmp_path / "cache"), **settings}
        data = DataModule(
            seed,
            folder=folder and str(folder),
            buckets=Buckets(**{"step": 8, **(buckets or {})}),
            captions=Captions(**captions or {}),
            augment=Augment(**augment or {}),
            cache=Cache(**{"folder": str(tmp_path / "cache"), **(cache or {})}),
            validation=Validation(**validation or {}),
            **settings,
        )
        data.attach(family)
        return data

    return build


def epoch(data, number=0):
    loader = data.train_dataloader()
    if hasattr(loader.batch_sampler, "set_epoch"):
        loader.batch_sampler.set_epoch(number)
    return list(loader)


def captions(batches):
    return sorted(caption for batch in batches for caption in batch.captions)


def by_draw(batches):
    """Draw → (pixels, crop)."""
    return {draw: (batch.pixels[i], batch.crop[i]) for batch in batches for i, draw in enumerate(batch.draws)}


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert (a.draws, a.captions) == (b.draws, b.captions)
        for name in ("pixels", "mask", "weight", "is_reg", "original_size", "crop", "target_size"):
            x, y = getattr(a, name), getattr(b, name)
            assert (x is None) == (y is None), name
            assert x is None or torch.equal(x, y), name


def test_folders_with_numbers_repeat_and_caption(folder, make):
    (folder / "2_sks star" / "0.txt").unlink()
    data = make(folder)
    found = captions(epoch(data))
    assert len(found) == 13
    assert found.count("sks star") == 2, "the folder's name stands in for a caption"
    assert found.count("") == 1, "an image outside of such folders counts once"
    assert found.count("sks, tag 1, red, blue") == 2


def test_a_batch(folder, make):
    data = make(folder)
    for batch in epoch(data):
        count, _, height, width = batch.pixels.shape
        assert len(batch) == count <= 2
        assert batch.target_size.tolist() == [[height, width]] * count
        for i, (draw, item) in enumerate(zip(batch.draws, batch.items, strict=True)):
            entry = data.plan.draws[draw]
            assert (entry.item, entry.bucket) == (item, (width, height))
            with Image.open(item.path) as image:
                assert batch.original_size[i].tolist() == [image.height, image.width]
                if entry.resized == image.size:  # a plain centre crop
                    top, left = batch.crop[i].tolist()
                    cut = np.asarray(image.convert("RGB"))[top : top + height, left : left + width]
                    expected = torch.from_numpy(cut.copy()).permute(2, 0, 1) / 127.5 - 1
                    assert torch.allclose(batch.pixels[i], expected, atol=1e-6)
        assert batch.pixels.abs().max() <= 1


RANDOM = {
    "captions": {"shuffle": True, "dropout_rate": 0.3, "tag_dropout_rate": 0.2},
    "augment": {"color": True, "flip": True, "random_crop": True},
    "reg_folder": "2_sks star",
}


def with_chance(make, folder, **settings):
    return make(folder, **{**RANDOM, "reg_folder": str(folder / RANDOM["reg_folder"]), **settings})


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_change_nothing(folder, make, persistent):
    alone = with_chance(make, folder)
    helped = with_chance(make, folder, num_workers=2, persistent_workers=persistent).train_dataloader()
    assert helped.persistent_workers == persistent
    for number in range(3):
        helped.batch_sampler.set_epoch(number)
        same(list(helped), epoch(alone, number))


def test_training_goes_on_in_the_middle_of_an_epoch(folder, make):
    whole = epoch(with_chance(make, folder), 1)
    data = with_chance(make, folder)
    data.resume(1, 3)
    same(epoch(data, 1), whole[3:])


def test_another_seed_is_another_order(folder, make):
    orders = [[batch.draws for batch in epoch(make(folder, seed=seed))] for seed in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_epochs_differ_and_captions_are_drawn_anew(folder, make):
    data = make(folder, captions={"shuffle": True, "keep_tokens": 1})
    first, second = (captions(epoch(data, number)) for number in (0, 1))
    assert first != second
    assert {tuple(sorted(c.split(", "))) for c in first} == {tuple(sorted(c.split(", "))) for c in second}
    assert len({c for c in first if "tag 1" in c} | {c for c in second if "tag 1" in c}) > 1, "repeats differ too"


def test_tags_warm_up_over_the_steps(folder, make):
    data = make(folder, captions={"token_warmup_steps": 14, "token_warmup_min": 1})
    tags = {
        step: len(batch.captions[i].split(", "))
        for number in range(3)
        for step, batch in enumerate(epoch(data, number), number * len(data.sampler()))
        for i in range(len(batch))
        if batch.items[i].caption
    }
    assert len(tags) > 15
    assert tags == {step: min(4, 1 + step * 3 // 14) for step in tags}


def test_every_nth_epoch_is_without_captions_with_workers_too(folder, make):
    data = make(folder, captions={"dropout_every_n_epochs": 2}, num_workers=2)
    loader = data.train_dataloader()
    empty = []
    for number in range(4):
        loader.batch_sampler.set_epoch(number)
        empty.append({batch.captions[i] == "" for batch in loader for i in range(len(batch)) if batch.items[i].caption})
    assert empty[1] == empty[3] == {True}
    assert False in empty[0]
    assert False in empty[2]


def test_caption_extension(folder, make):
    (folder / "2_sks star" / "0.caption").write_text("from the other file")
    for extension in ("caption", ".caption"):
        assert "from the other file" in captions(epoch(make(folder, captions={"extension": extension})))


def test_flip_mirrors_half_of_the_samples(folder, make):
    plain = by_draw(epoch(make(folder)))
    flipped = {}
    for number in range(12):
        for draw, (pixels, crop) in by_draw(epoch(make(folder, augment={"flip": True}), number)).items():
            straight, corner = plain[Draw(0, draw.index)]
            mirrored = torch.equal(pixels, straight.flip(-1))
            assert mirrored or torch.equal(pixels, straight)
            assert crop[0] == corner[0]
            flipped[draw] = mirrored
    assert 0.4 < sum(flipped.values()) / len(flipped) < 0.6


def test_a_mirrored_crop_is_told_as_it_is_seen(tmp_path, make):
    picture(tmp_path / "a" / "a.png", (67, 64))
    data = make(tmp_path / "a", augment={"flip": True})
    seen = {tuple(crop.tolist()) for n in range(20) for _, crop in by_draw(epoch(data, n)).values()}
    assert seen == {(0, 1), (0, 2)}, "three columns too many: one is cut at the left, two at the right"


def test_random_crops_lie_anywhere(tmp_path, make):
    picture(tmp_path / "a" / "a.png", (67, 64))

    def corners(data):
        return {tuple(batch.crop[0].tolist()) for number in range(30) for batch in epoch(data, number)}

    assert corners(make(tmp_path / "a")) == {(0, 1)}
    assert corners(make(tmp_path / "a", augment={"random_crop": True})) == {(0, 0), (0, 1), (0, 2), (0, 3)}


def test_colour_jitter_changes_colours_a_little(folder, make):
    plain, varied = by_draw(epoch(make(folder))), by_draw(epoch(make(folder, augment={"color": True})))
    assert all(not torch.equal(plain[draw][0], varied[draw][0]) for draw in plain)
    assert all((plain[draw][0] - varied[draw][0]).abs().mean() < 0.3 for draw in plain)
    grey = np.full((2, 2, 3), 100, np.uint8)
    out = jitter(grey, random.Random(1))
    assert (out == out[0, 0, 0]).all(), "grey stays grey"
    assert 90 <= out[0, 0, 0] <= 110
    red = np.array([[[200, 50, 50]]], np.uint8)
    assert len({tuple(jitter(red, random.Random(seed))[0, 0]) for seed in range(20)}) > 15


def test_regularisation_images(folder, tmp_path, make):
    picture(tmp_path / "reg" / "3_star" / "r.png", (64, 64))
    picture(tmp_path / "reg" / "1_moon" / "r.png", (64, 64))
    data = make(folder, reg_folder=str(tmp_path / "reg"), captions={"trigger": "sks"})
    batches = epoch(data)
    reg = [caption for batch in batches for caption, is_reg in zip(batch.captions, batch.is_reg, strict=True) if is_reg]
    assert len(reg) == 13 == sum(len(batch) for batch in batches) - len(reg)
    assert 9 <= reg.count("star") <= 11, "three times as often as the moon"
    assert set(reg) == {"star", "moon"}, "without the trigger word"
    assert data.summary()["regularisation"] == 2


def test_folders_with_settings_of_their_own(folder, tmp_path, make):
    picture(tmp_path / "b" / "b.png", (64, 64), caption="one, two, three")
    picture(tmp_path / "masks" / "b.png", (64, 64), "L")
    data = make(
        folders=[
            {"path": str(folder)},
            {
                "path": str(tmp_path / "b"),
                "repeats": 4,
                "weight": 0.5,
                "captions": {"prefix": "style"},
                "augment": {"flip": True},
                "mask_folder": str(tmp_path / "masks"),
            },
        ]
    )
    batches = epoch(data)
    assert captions(batches).count("style, one, two, three") == 4
    for batch in batches:
        own = torch.tensor([item.path.startswith(str(tmp_path / "b")) for item in batch.items])
        assert torch.equal(batch.weight, torch.where(own, 0.5, 1.0))
        if own.any():
            assert batch.mask.shape == (len(batch), 1, 64, 64)
            assert torch.equal(batch.mask[~own], torch.ones_like(batch.mask[~own])), "without a mask all counts"
    with pytest.raises(UserError, match=r"data\.folders\.0\.repeat: unknown setting"):
        make(folders=[{"path": str(folder), "repeat": 2}])
    with pytest.raises(UserError, match=r"data\.folders\.0\.captions\.shufle"):
        make(folders=[{"path": str(folder), "captions": {"shufle": True}}])


def test_masks_follow_crop_and_flip(tmp_path, make):
    path = picture(tmp_path / "a" / "a.png", (67, 64))
    grey = Image.open(path).convert("L")
    (tmp_path / "masks").mkdir()
    grey.save(tmp_path / "masks" / "a.png")
    Image.merge("RGB", [grey] * 3).save(path)  # now image and mask show the same
    data = make(tmp_path / "a", augment={"flip": True, "random_crop": True}, mask_folder=str(tmp_path / "masks"))
    for number in range(10):
        for batch in epoch(data, number):
            assert torch.allclose(batch.mask * 2 - 1, batch.pixels[:, :1], atol=1e-6)


def test_masks_that_are_no_good_are_told(folder, make, tmp_path):
    for number, size in enumerate([(64, 64), (96, 64), (64, 64), (20, 90)]):
        picture(tmp_path / "masks" / "2_sks star" / f"{number}.png", size, mode="L", seed=number)
    (tmp_path / "masks" / "2_sks star" / "0.png").write_bytes(b"")
    data = make(folder, mask_folder=str(tmp_path / "masks"))
    facts = data.summary()
    (skipped,) = facts["skipped"]
    assert skipped["path"].endswith("2_sks star/0.png")
    assert "its mask" in skipped["reason"]
    assert "is an empty file" in skipped["reason"]
    assert any("masks stretched, as their aspect ratio is not that of the image: 3" in note for note in facts["notes"])
    (tmp_path / "masks" / "2_sks star" / "0.png").unlink()
    damaged = tmp_path / "masks" / "2_sks star" / "3.png"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:60] + bytes(12) + whole[72:])
    with pytest.raises(UserError, match=r"3\.png: cannot be used: its mask .*masks/2_sks star/3\.png"):
        epoch(make(folder, mask_folder=str(tmp_path / "masks"), on_error="stop"))


def test_transparency_is_a_mask_where_asked(tmp_path, make):
    picture(tmp_path / "a" / "a.png", (64, 64), "RGBA")
    (batch,) = epoch(make(tmp_path / "a", alpha_mask=True))
    alpha = np.asarray(Image.open(tmp_path / "a" / "a.png"))[..., 3]
    assert torch.allclose(batch.mask[0, 0] * 255, torch.from_numpy(alpha.copy()).float(), atol=1e-3)
    (batch,) = epoch(make(tmp_path / "a"))
    assert batch.mask is None


@pytest.mark.parametrize("latents", ["memory", "disk"])
@pytest.mark.parametrize("workers", [0, 2])
def test_cached_latents_are_those_of_the_pixels(folder, make, random_family, latents, workers):
    settings = {"augment": {"flip": True}, "captions": {"shuffle": True}}
    live = epoch(make(folder, **settings), 1)
    cached = epoch(make(folder, cache={"latents": latents}, num_workers=workers, **settings), 1)
    for a, b in zip(live, cached, strict=True):
        assert (a.draws, a.captions, b.pixels) == (b.draws, b.captions, None)
        assert torch.equal(a.crop, b.crop)
        mean, std = random_family.encode_image(a.pixels)
        assert torch.allclose(mean, b.latent_mean, atol=1e-5)
        assert torch.allclose(std, b.latent_std, atol=1e-5)


def test_several_crops_can_be_cached(tmp_path, make):
    picture(tmp_path / "a" / "a.png", (90, 64))
    cache = {"latents": "memory", "variants": 3}
    data = make(tmp_path / "a", buckets={"enabled": False}, augment={"random_crop": True}, cache=cache)
    crops = {tuple(batch.crop[0].tolist()) for number in range(40) for batch in epoch(data, number)}
    assert len(crops) == 3


def test_cached_texts(folder, make, random_family):
    data = make(folder, cache={"text": True}, captions={"dropout_rate": 0.5})
    for batch in epoch(data):
        for caption, text in zip(batch.captions, batch.text, strict=True):
            assert torch.allclose(text.hidden, random_family.encode_text([caption]).hidden, atol=1e-5)


def test_resolution_and_buckets_shape_the_batches(folder, make):
    def shapes(**settings):
        return {tuple(batch.pixels.shape[2:]) for batch in epoch(make(folder, **settings))}

    assert shapes() == {(64, 64), (48, 80), (56, 72)}
    assert shapes(buckets={"enabled": False}) == {(64, 64)}
    assert shapes(buckets={"enabled": False}, resolution=[72, 40]) == {(40, 72)}
    assert shapes(resolution=32, buckets={"step": 32}) == {(32, 32)}
    assert shapes(resolution=[[32, 32], [64, 64]], buckets={"enabled": False}) == {(32, 32), (64, 64)}
    assert max(max(shape) for shape in shapes(buckets={"max_resolution": 72})) == 72
    assert min(min(shape) for shape in shapes(buckets={"min_resolution": 56})) == 56
    assert shapes(resolution=128, buckets={"no_upscale": True}) == {(64, 64), (64, 80), (64, 96)}


def test_image_sizes_can_be_limited(folder, make):
    data = make(folder, max_image_size=80)
    assert data.summary()["images"] == 4
    assert any(note.endswith("max_image_size: 3") for note in data.summary()["notes"])
    assert make(folder, min_image_size=64).summary()["images"] == 7


def test_overlong_captions(folder, make):
    (folder / "2_sks star" / "0.txt").write_text("star " * 100)
    assert any(note.endswith("max_token_length: 1") for note in make(folder).summary()["notes"])
    skipping = make(folder, captions={"overlong": "skip"}).summary()
    assert skipping["images"] == 6
    assert any(skipped["path"].endswith("0.png") for skipped in skipping["skipped"])
    with pytest.raises(UserError, match=r"0\.png"):
        make(folder, captions={"overlong": "error"})


def test_long_captions_can_be_batched_apart(folder, make, random_base):
    for i in (1, 3):
        (folder / "2_sks star" / f"{i}.txt").write_text("star " * 100)
    family = load(str(random_base), max_token_length=150, resolution=64)
    for batch in epoch(make(folder, family=family, captions={"token_buckets": True}, buckets={"enabled": False})):
        assert len({len(caption) > 100 for caption in batch.captions}) == 1


def test_validation_holds_images_out(folder, tmp_path, make):
    chance = {"captions": {"shuffle": True, "dropout_rate": 1.0}, "augment": {"flip": True}}
    data = make(folder, validation={"split": 0.3}, **chance)
    apart, seen = ([item.path for batch in loader for item in batch.items] for loader in data.val_dataloader())
    trained = {item.path for batch in epoch(data) for item in batch.items}
    assert apart
    assert len(apart) == len(set(apart)), "each once, without repeats"
    assert len(seen) == len(set(seen)) == min(len(apart), len(trained))
    assert not trained & set(apart)
    assert set(seen) <= trained
    for loader in data.val_dataloader():
        same(list(loader), list(loader))
        assert all(batch.captions == [item.caption for item in batch.items] for batch in loader)
    picture(tmp_path / "other" / "x.png")
    loaders = make(folder, validation={"folder": str(tmp_path / "other")}).val_dataloader()
    assert [item.path for batch in loaders[0] for item in batch.items] == [str(tmp_path / "other" / "x.png")]
    assert make(folder).val_dataloader() == []


def test_the_validations_own_folder_has_the_datas_rules(folder, make, tmp_path):
    picture(tmp_path / "apart" / "a.png", caption="word")
    picture(tmp_path / "apart" / "tiny.png", (8, 8), caption="word")
    data = make(
        folders=[{"path": str(folder), "captions": {"prefix": "entry,"}, "augment": {"flip": True}}],
        captions={"prefix": "data,"},
        validation={"folder": str(tmp_path / "apart")},
        min_image_size=16,
    )
    apart, seen = data.val_dataloader()
    assert captions(apart) == ["data, word"]
    assert all(caption.startswith("entry, ") for caption in captions(seen))
    assert any("data.validation.folder: images skipped" in note for note in data.summary()["notes"])


@pytest.mark.parametrize("latents", ["memory", "disk"])
def test_held_out_images_are_cached_as_they_are_watched(folder, make, latents):
    """Random crops are those of the training: what is held out is watched in its centre."""
    cache = {"latents": latents, "variants": 2}
    data = make(folder, cache=cache, augment={"random_crop": True, "flip": True}, validation={"split": 0.3})
    live = make(folder, augment={"random_crop": True, "flip": True}, validation={"split": 0.3})
    for cached, fresh in zip(data.val_dataloader(), live.val_dataloader(), strict=True):
        for one, other in zip(cached, fresh, strict=True):
            assert torch.equal(one.crop, other.crop)
            assert torch.equal(one.latent_mean, data.family.encode_image(other.pixels)[0])
    assert len(epoch(data)) == len(epoch(live))


@pytest.mark.parametrize("latents", ["none", "memory"])
def test_an_image_that_turns_out_damaged_does_not_end_the_run(folder, make, latents, caplog, capsys):
    data = make(folder, cache={"latents": latents})
    (folder / "2_sks star" / "1.png").write_bytes((folder / "2_sks star" / "1.png").read_bytes()[:60])
    batches = epoch(data)
    used = [item.path for batch in batches for item in batch.items]
    assert not any(path.endswith("1.png") for path in used)
    if latents == "none":
        assert len(used) == 13, "another of its bucket takes its place"
        assert "1.png" in caplog.text
        assert data.summary()["replaced"] == [str(folder / "2_sks star" / "1.png")]
    else:
        assert len(used) == 11
        assert any(skipped["path"].endswith("1.png") for skipped in data.summary()["skipped"])
        told = capsys.readouterr().err
        assert "1.png: is damaged" in told
        assert f"{len(batches)} per epoch" in told


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_ends_the_run_where_that_is_wished(folder, make, workers):
    """Without caches it is found when its turn comes; in a process of its own it is the same message."""
    data = make(folder, num_workers=workers, on_error="stop")
    path = folder / "2_sks star" / "1.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError) as error:
        epoch(data)
    (problem,) = error.value.problems
    assert problem.setting == str(path)
    assert "damaged" in problem.found
    assert "data.on_error=skip" in problem.remedy


def test_a_damaged_image_of_the_validation_is_left_out_of_it(folder, make, tmp_path):
    for seed, name in enumerate(("whole", "broken")):  # equal images would share their latents
        picture(tmp_path / "apart" / f"{name}.png", seed=seed)
    data = make(folder, cache={"latents": "memory"}, validation={"folder": str(tmp_path / "apart")})
    (tmp_path / "apart" / "broken.png").write_bytes((tmp_path / "apart" / "broken.png").read_bytes()[:60])
    apart, _ = data.val_dataloader()
    assert [item.path for batch in apart for item in batch.items] == [str(tmp_path / "apart" / "whole.png")]
    assert [skipped["path"] for skipped in data.summary()["skipped"]] == [str(tmp_path / "apart" / "broken.png")]


def test_a_run_says_how_many_latents_it_found(folder, make, capsys):
    make(folder, cache={"latents": "disk"}).train_dataloader()
    assert "0 of 7 were cached, 7 encoded" in capsys.readouterr().err
    picture(folder / "plain.png", seed=10)
    make(folder, cache={"latents": "disk"}).train_dataloader()
    assert "6 of 7 were cached, 1 encoded" in capsys.readouterr().err


def test_names_that_are_no_text_can_be_told(folder, make):
    """As file names they are kept to the byte; in messages and captions they are text."""
    inner = os.fsencode(folder) + b"/3_\xff\x1b"
    try:
        os.mkdir(inner)
    except OSError:
        pytest.skip("not a name on this file system")
    (folder / "plain.png").rename(os.fsdecode(inner + b"/\xfe.png"))
    with open(inner + b"/\xfd\n.png", "wb"):
        pass
    data = make(folder)
    assert captions(epoch(data))[-3:] == ["\ufffd\ufffd"] * 3
    (skipped,) = data.summary()["skipped"]
    assert skipped["path"].endswith("/3_\ufffd\ufffd/\ufffd\ufffd.png")
    assert data.tag_frequency().keys() == {"2_sks star", "3_\ufffd\ufffd"}, "what a file's metadata holds"
    with pytest.raises(UserError) as error:
        make(folder, on_error="stop")
    assert str(error.value).encode("utf8")


def test_nothing_to_train_on(tmp_path, make):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"data\.folder"):
        make(tmp_path / "empty")
    with pytest.raises(UserError, match=r"data\.folder"):
        make(None)


def test_dropping_everything_is_an_error(folder, make):
    with pytest.raises(UserError, match=r"data\.buckets\.partial"):
        make(folder, buckets={"partial": "drop"}, batch_size=50).train_dataloader()


def test_tags_and_example_captions(folder, make):
    data = make(folder)
    assert data.tag_counts()["sks"] == 12
    assert data.tag_frequency()["2_sks star"]["sks"] == 6
    assert data.example_captions(2) == ["sks, tag 0, red, blue", "sks, tag 1, red, blue"]


def test_the_dataset_is_left_as_it_was(folder, make):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    epoch(make(folder, cache={"latents": "disk", "text": True}))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
