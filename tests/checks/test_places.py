"""Where files may be written: all that can be known is checked before anything is, and no run writes over another."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from loralab import places
from loralab.command.many import settings_files
from loralab.command.prepare import prepare
from loralab.command.run_folder import folder_problems, planned
from loralab.errors import UserError
from loralab.training.file_names import after_step, longest
from loralab.writing import hold, make_new, part_name, unused


def problems(*overrides: str) -> dict[str, str]:
    """What is wrong with the overrides of a run that is about to start, by setting."""
    try:
        prepared = prepare(list(overrides), multirun=any("sweep" in o for o in overrides))
        place = planned(prepared.composed, is_sweep=any("sweep" in o for o in overrides))
        assert place is not None
        found = list(folder_problems(prepared.composed.tree, place))
    except UserError as error:
        found = list(error.problems)
    return {problem.setting: f"{problem.found} {problem.remedy}" for problem in found}


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (" .", "starts or ends with a space"),
        ("out/ adapters", "out/adapters"),
        ("out\t", "\\t"),
        ("\u202aC:/out", "\\u202a"),
        ("C:\\Users\\me", "drive letter"),
        ("D:/lora", "drive letter"),
        ("out\\lora", "out/lora"),
        ("https://example.org/x", "URL"),
        ("~nobody-here/out", "unknown user"),
        ("x" * 300, "300 bytes"),
        ("ä" * 200 + "/out", "400 bytes"),
        ("/".join(["x" * 200] * 25), "limit for a path"),
    ],
)
def test_malformed_output_paths(path: str, words: str) -> None:
    found = places.unusable(path)
    assert found is not None
    assert words in " ".join(found)


@pytest.mark.parametrize(
    "key", ["output.folder", "settings.save_folder", "logger.tensorboard.save_dir", "data.cache_folder"]
)
def test_every_path_to_write_to_is_checked(key: str) -> None:
    assert "starts or ends with a space" in problems(f"{key}=' ..'")[key]


@pytest.mark.parametrize("key", ["data.cache_folder", "data.cache.folder"])
def test_a_cache_by_url_is_refused(key: str) -> None:
    found = problems("data/cache=disk", f"{key}=s3://bucket/cache")
    assert found.keys() == {key}
    assert "'s3://bucket/cache' is a URL, not a path" in found[key]
    assert "the URL as data.cache.share" in found[key]


@pytest.mark.parametrize(
    ("url", "cache", "said"),
    [
        ("s3://bucket/cache", "disk", None),
        ("s3://bucket/cache", "memory", "set data.cache.latents=disk"),
        ("/mnt/cache", "disk", "common disk by data.cache.folder"),
        ("s4://bucket/cache", "disk", "unknown scheme"),
        ("s3://bucket/cache?key=x", "disk", "credentials come from the environment"),
    ],
)
def test_where_machines_share_a_cache(url: str, cache: str, said: str | None) -> None:
    found = problems(f"data.cache.latents={cache}", f"data.cache.share='{url}'")
    assert said in found["data.cache.share"] if said else not found


def test_states_are_looked_for_in_a_bucket_by_output_folder() -> None:
    assert "output.folder=URL" in problems("resume=auto", "resume_root=s3://bucket/out")["resume_root"]


def test_odd_paths_that_are_there_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ends in a blank ", "back\\slash", "C:"):
        (tmp_path / name).mkdir()
        assert places.unusable(name) is None
    assert places.unusable("new/folder") is None
    assert places.unusable("famille 👨\u200d👩") is None  # joined emoji


def test_a_part_of_a_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file" in problems(f"output.folder={tmp_path}/file/inner")["output.folder"]
    assert "is a file" in problems(f"hydra.run.dir={tmp_path}/file/run")["hydra.run.dir"]


@pytest.mark.parametrize("format", ["safetensors", "pt"])
def test_the_name_has_room_for_all_that_is_added(format: str, tmp_path: Path) -> None:
    """The longest name that passes can be written; one byte more is refused."""
    given = (f"output.format={format}", f"output.folder={tmp_path}")
    limit = os.pathconf(tmp_path, "PC_NAME_MAX")
    room = limit - len(part_name(longest("", format)))
    name = "n" * room
    assert "output.name" not in problems(f"output.name={name}", *given)
    (tmp_path / part_name(f"{name}{after_step(0)}.{format}")).touch()
    assert str(limit) in problems(f"output.name={name}n", *given)["output.name"]
    assert "output.name" in problems(f"output.name='{'é' * 125}'", *given)  # 250 bytes


@pytest.mark.parametrize("name", ["a/b", "a\tb", " a", "a ", "''", "..", "."])
def test_names_that_are_none(name: str) -> None:
    assert "output.name" in problems(f"output.name='{name}'" if name != "''" else "output.name=''")


@pytest.mark.parametrize("name", ["what?", "nul", "dot."])
def test_a_name_that_windows_cannot_hold_is_a_note(name: str) -> None:
    assert any("Windows" in note for note in prepare([f"output.name='{name}'"]).warnings)
    assert not any("Windows" in note for note in prepare(["output.name=v1.5-final"]).warnings)


def test_images_are_never_written_to(tmp_path: Path) -> None:
    """Whatever names the place: a logger, its name, Hydra's folders, a reference to the images' own setting."""
    images = tmp_path / "images"
    images.mkdir()
    data = ("data=folder", f"data.folder={images}")
    for override, setting in (
        ("logger.tensorboard.save_dir=${data.folder}", "logger.tensorboard.save_dir"),
        (f"logger.tensorboard.name={images}/logs", "logger.tensorboard.name"),
        ("hydra.run.dir=${data.folder}/run", "hydra.run.dir"),
        (f"hydra.output_subdir={images}", "hydra.output_subdir"),
        ("output.folder=${data.folder}", "output.folder"),
    ):
        assert "is inside the image folder" in problems(*data, override)[setting], override
    csv = (*data, "logger=csv", "logger.csv.save_dir=${data.folder}/..", "logger.csv.name=images/curves")
    assert "is inside the image folder" in problems(*csv)["logger.csv.save_dir"]
    sweep = (*data, "hydra.mode=MULTIRUN", f"hydra.sweep.dir={tmp_path}/sweep", f"hydra.sweep.subdir={images}/0")
    assert "is inside the image folder" in problems(*sweep)["hydra.sweep.subdir"]
    assert not problems(*data, f"hydra.run.dir={tmp_path}/imagesque/run")
    assert not list(images.iterdir())


def test_a_folder_with_a_run_in_it_is_for_resuming(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"status": "failed"}))
    assert "another run" in problems(f"hydra.run.dir={tmp_path}")["hydra.run.dir"]
    assert not problems(f"hydra.run.dir={tmp_path}", "resume=auto")
    sweep = tmp_path / "sweep"
    (sweep / "0").mkdir(parents=True)
    (sweep / "0" / "run.json").touch()
    assert "another run" in problems("hydra.mode=MULTIRUN", f"hydra.sweep.dir={sweep}")["hydra.sweep.dir"]


def test_one_process_gets_each_new_folder(tmp_path: Path) -> None:
    """As two runs that start within a second do."""
    assert [make_new(tmp_path / "12-30-00", "x").name for _ in range(3)] == ["12-30-00", "12-30-00-2", "12-30-00-3"]
    assert unused(tmp_path / "12-30-00").name == "12-30-00-4"


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    """Until it ends, however it ends; processes forked from it hold nothing."""
    assert hold(tmp_path)
    assert hold(tmp_path)  # its own
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        from loralab import writing

        writing._held.clear()
        os.write(writer, b"1" if hold(tmp_path) else b"0")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 1) == b"0"


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
@pytest.mark.parametrize("key", ["model.base", "adapter.weights", "data.metadata", "data.mask_folder", "resume"])
def test_what_is_neither_a_file_nor_a_folder(key: str, make: Callable[[Path], None], tmp_path: Path) -> None:
    """It is never opened: a pipe would wait for a writer, a device has no end."""
    place = tmp_path / "it.safetensors"
    make(place)
    assert "is a pipe or a device" in problems(f"{key}={place}", "data=folder", f"data.folder={tmp_path}")[key]


@pytest.mark.parametrize("path", ["x" * 5000, "/".join(["y" * 200] * 30)], ids=["name", "path"])
def test_paths_longer_than_the_system_knows(path: str) -> None:
    with pytest.raises(UserError, match=r"settings\.run_folder: .* was not found"):
        settings_files(Path(path))
    for key in ("model.base", "resume", "adapter.weights", "data.metadata"):
        assert key in problems(f"{key}={path}", "data=folder", "data.folder=.")
