"""Settings of the data that cannot work are told before anything is loaded."""

import pytest
from PIL import Image

from loralab import cli, launch
from loralab.command.prepare import prepare
from loralab.errors import UserError


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["data.buckets.step=60"], ["data.buckets.step", "multiple of 8"]),
        (["model=sdxl", "data.buckets.step=40"], ["data.buckets.step", "multiple of 32"]),
        (["data.buckets.min_resolution=600"], ["data.buckets.min_resolution", "above the resolution 64"]),
        (["data.buckets.max_resolution=32"], ["data.buckets.max_resolution", "below the resolution 64"]),
        (["data.buckets.enabled=false", "data.resolution=100"], ["data.resolution", "multiples of 8"]),
        (["data.resolution=[]"], ["data.resolution", "invalid value []"]),
        (["data.resolution=huge"], ["data.resolution", "whole number"]),
        (["data.on_error=maybe"], ["data.on_error", "skip | stop"]),
        (["targets=unet_only", "data.cache.text=true", "data.captions.shuffle=true"], ["data.cache.text", "vary"]),
        (["data.cache.latents=memory", "data.augment.color=true"], ["data.augment.color", "before encoding"]),
        (["data.cache.latents=disk", "data.augment.random_crop=true"], ["data.augment.random_crop", "variants=4"]),
        (
            ["data=folder", "data/cache=disk", "data.folders=[{path: /tmp, augment: {color: true}}]"],
            ["data.folders.0.augment.color", "before encoding"],
        ),
        (["data.cache.variants=3"], ["data.cache.variants", "not random"]),
        (["data=folder", "data.folders=[{path: /tmp, repeat: 3}]"], ["data.folders.0.repeat", "repeats"]),
        (["data=folder", "data.folders=[{path: /tmp, repeats: 0}]"], ["data.folders.0.repeats", "at least 1"]),
        (["data=folder", "data.folders=[{repeats: 2}]"], ["data.folders.0.path", "is missing"]),
        (["data.buckets.step=0"], ["data.buckets.step", "0"]),
        (
            ["data.min_image_size=200", "data.max_image_size=100"],
            ["data.min_image_size", "every image would be skipped"],
        ),
        (["data.captions.extension=PNG"], ["data.captions.extension", "image extension"]),
        (["data.metadata=/nowhere.json"], ["data.metadata", "not found"]),
        (["data.mask_folder=/etc/hostname"], ["data.mask_folder", "is a file, not a folder"]),
        (["data.validation.folder=/nowhere"], ["data.validation.folder", "was not found"]),
        (["data.captions.separator=''"], ["data.captions.separator", "invalid value ''"]),
        (["data=folder", "data.folders=[{path: /tmp, captions: 5}]"], ["data.folders.0.captions", "invalid value 5"]),
        (
            [
                *("targets=unet_only", "data=folder", "data.cache.text=true"),
                "data.folders=[{path: /tmp, captions: {shuffle: true}}]",
            ],
            ["data.cache.text", "vary"],
        ),
        (
            ["data=folder", "data.folders=[{path: /tmp, captions: {shuffle: maybe}}]"],
            ["data.folders.0.captions.shuffle", "true or false"],
        ),
    ],
)
def test_what_cannot_work_is_named(overrides, words):
    with pytest.raises(UserError) as error:
        prepare(overrides)
    told = [str(problem) for problem in error.value.problems if problem.setting == words[0]]
    assert len(told) == 1, "said once"
    assert all(word in told[0] for word in words), told


@pytest.mark.parametrize(
    ("key", "override"),
    [
        ("data.cache_folder", "data.cache_folder={images}/cache"),
        ("data.cache.folder", "data.cache.folder={images}/../images/cache"),
        ("data.cache.folder", "data.cache.folder={apart}/cache"),
        ("output.folder", "output.folder={images}"),
        ("settings.save_folder", "settings.save_folder={link}/deep"),
        ("logger.tensorboard.save_dir", "logger.tensorboard.save_dir={images}"),
    ],
)
def test_nothing_is_written_into_a_folder_of_images(tmp_path, key, override):
    names = {name: tmp_path / name for name in ("images", "apart", "link")}
    names["images"].mkdir()
    names["apart"].mkdir()
    names["link"].symlink_to(names["images"])
    given = [f"data.folder={names['images']}", f"data.validation.folder={names['apart']}", "data/cache=disk"]
    with pytest.raises(UserError) as error:
        prepare(["data=folder", *given, override.format(**names)])
    assert {p.setting for p in error.value.problems if "is inside the image folder" in p.found} >= {key}
    assert list(names["images"].iterdir()) == []


def test_runs_are_not_kept_among_the_images(tmp_path, monkeypatch, capsys):
    """Their pictures would be trained on by the next one. The doctor, which keeps nothing, may be called there."""
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        launch.main(["data=folder", "data.folder=."])
    assert stop.value.code == 1
    told = capsys.readouterr().err
    assert "hydra.run.dir" in told
    assert "is inside the image folder" in told
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", "data.folder=.", f"data.cache_folder={tmp_path.parent / 'cache'}"])
    assert stop.value.code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_what_works_is_not_complained_of(tmp_path):
    prepare(["data.resolution=[[64,64],[32,32]]", "data.buckets.step=32"])
    prepare(["targets=unet_only", "data.cache.text=true"])
    prepare(["data.cache.latents=disk", "data.cache.variants=3", "data.augment.random_crop=true"])
    entry = f"{{path: {tmp_path}, repeats: 3, weight: 0.5, captions: {{shuffle: true}}, augment: {{flip: true}}}}"
    prepare(["data=folder", f"data.folders=[{entry}]"])
