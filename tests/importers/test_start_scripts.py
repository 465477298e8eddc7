"""Start scripts as people write them: what is known of their variables is used, and what is not is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from loralab.errors import UserError
from loralab.importers.conversion import read

TRAIN = "python train_network.py --network_dim 4"


def values(folder: Path, name: str, text: str) -> dict:
    file = folder / name
    file.write_text(text, "utf8")
    return read(file).settings.values


@pytest.mark.parametrize(
    ("name", "text", "key", "value"),
    [
        ("a.bat", f'set NAME="one"\nset NEXT="%NAME%_2"\n{TRAIN} --output_name=%NEXT%', "output.name", "one_2"),
        ("b.bat", f'set "NAME=one two"\n{TRAIN} --output_name="%NAME%"', "output.name", "one two"),
        ("c.sh", f'cmd="{TRAIN} --seed 7"\n$cmd --output_name x', "seed", 7),
        ("d.sh", f'run="accelerate launch train_network.py"\n$run --network_dim 8 --seed {7}', "adapter.rank", 8),
        ("e.txt", f"!accelerate launch {TRAIN.partition(' ')[2]}", "adapter.rank", 4),
        ("f.sh", f'{TRAIN} --output_name "50%2x"', "output.name", "50%2x"),
    ],
)
def test_what_a_variable_stands_for(tmp_path: Path, name: str, text: str, key: str, value: object) -> None:
    assert values(tmp_path, name, text)[key] == value


@pytest.mark.parametrize(
    "place",
    ["%~dp0images", '"$(dirname "$0")/images"', '"$(dirname "${BASH_SOURCE[0]}")/images"', "$PSScriptRoot/images"],
)
def test_the_folder_of_the_script_itself(tmp_path: Path, place: str) -> None:
    assert values(tmp_path, "train.bat", f"{TRAIN} --train_data_dir={place}")["data.folder"] == str(tmp_path / "images")


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    for home in ("$HOME", "${HOME}", "%USERPROFILE%", "$env:USERPROFILE"):
        assert values(tmp_path, "train.sh", f"{TRAIN} --vae {home}/vae")["model.vae"] == "/home/me/vae"


@pytest.mark.parametrize(
    ("text", "option", "why"),
    [
        (f"{TRAIN} --output_name=$1", "--output_name", "$1 is an argument of the script"),
        (f"{TRAIN} --output_name=%~n0", "--output_name", "%~n0 is an argument of the script"),
        (f'set "A=x_%~1"\n{TRAIN} --output_name=%A%', "--output_name", "$A is computed by the script"),
        (f"for f in a b; do\n{TRAIN} --train_data_dir $f\ndone", "--train_data_dir", "$f is set in a loop"),
        (f"HERE=`pwd`\n{TRAIN} --output_dir $HERE/x", "--output_dir", "$HERE is computed by the script"),
    ],
)
def test_what_a_script_alone_does_not_say(tmp_path: Path, text: str, option: str, why: str) -> None:
    with pytest.raises(UserError) as caught:
        values(tmp_path, "train.bat", text)
    assert option in str(caught.value)
    assert why in str(caught.value)
