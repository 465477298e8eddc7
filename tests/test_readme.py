"""What the README promises exists: its commands, files and settings."""

import re
from pathlib import Path

import pytest

from loralab.config.command_line import checked, prepare, split, sweeps

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[str]:
    """Every `python train.py …` of the page's code blocks, without the trailing comment."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf8"), re.S)
    lines = [line.split("   #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("python train.py")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("command", [command for page in PAGES for command in commands(page)])
def test_training_commands_pass_the_check(command: str, tmp_path: Path) -> None:
    model, images = tmp_path / "model.safetensors", tmp_path / "images"
    model.touch()
    images.mkdir()
    flags, overrides = split(command.split()[2:])
    assert set(flags) <= {"-m", "--help", "--cfg", "job"}
    overrides = [o for o in overrides if not o.startswith(("settings.load=", "model.base=", "trainer=gpu"))]
    checked_overrides, *_ = prepare(
        [o.replace("PATH/images", str(images)).replace("=images", f"={images}") for o in overrides],
        sweeps(flags, overrides),
    )
    if "-m" not in flags:
        assert checked(checked_overrides)[0].trainer


def test_the_two_commands_are_one_line_each() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8")
    for marker, ending in (("train", ".venv/bin/python train.py"), ("test", ".venv/bin/python -m pytest")):
        block = re.search(rf"<!-- {marker} command -->\n```bash\n(.*?)\n```", text, re.S)
        assert block
        assert "\n" not in block[1]
        assert block[1].startswith("git clone ")
        assert block[1].endswith(ending)
