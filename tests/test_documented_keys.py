"""Every key that the pages, the comments of conf/ and the messages speak of is one that can be set as it is written."""

import ast
import functools
import re
from functools import cache
from pathlib import Path

import pytest

from loralab.command.prepare import checked
from loralab.errors import UserError
from loralab.importers.recognition import PEERS
from loralab.schema.catalogue import OPTIONS
from loralab.schema.compose import CONF, compose, group_options
from loralab.schema.elsewhere import SHORT, option_of
from loralab.schema.sources import raw
from loralab.schema.tree import exists
from tests import ROOT

TOPS = sorted(
    {group.split("/")[0] for group in group_options()} | {k for k in raw(CONF / "train.yaml") if k != "defaults"}
)
KEY = re.compile(rf"(?<![\w./$-])(?:{'|'.join(TOPS)})(?:\.[a-z_0-9]+)+(?=[^\w(.]|\.\s|\.$|$)")
CHOICE = re.compile(rf"(?<![\w./$-])((?:{'|'.join(TOPS)})(?:/[a-z_]+)*)=([a-z][a-z0-9_]*)\b")
NOT_KEYS = re.compile(r"\.(md|py|yaml|json|html|txt|png|safetensors|csv|log|jsonl|parquet|pkl)$|_$|^optimizer\.step$")
FREE = ("data.folders.", "targets.patterns.", "suggested.", "hydra.", "callbacks.mine", "logger.mine", "optimizer.lrr")
OTHERS = ("model.diffusion_model", "callbacks.clock", "settings.recipe")
"""Names of tensors, of modules, of what the benchmark adds."""


@cache
def tree() -> dict:
    return compose([]).tree


def is_setting(key: str) -> bool:
    return exists(tree(), key) or option_of(key) is not None or key.startswith(FREE)


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_keys_of_pages(page: Path) -> None:
    assert not wrong(page.read_text(encoding="utf8"))


def test_keys_of_comments() -> None:
    for file in CONF.rglob("*.yaml"):
        assert not wrong("\n".join(re.findall(r"#(.*)", file.read_text(encoding="utf8")))), file


def test_keys_of_messages() -> None:
    theirs = {*(ROOT / "src/loralab/importers/peers").glob("*.py")}  # keys of other trainers
    for file in {*(ROOT / "src").rglob("*.py")} - {ROOT / "src/loralab/schema/renamed.py"} - theirs:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not wrong(node.value), (file, node.lineno)


@pytest.mark.parametrize("peer", PEERS)
def test_keys_of_what_is_said_of_other_trainers_keys(peer: str) -> None:
    for row in PEERS[peer].ROWS.values():
        assert not wrong(row.why if row.key else row.what), row.name


def wrong(text: str) -> list[str]:
    keys = [key for key in KEY.findall(text) if not NOT_KEYS.search(key) and not key.startswith(OTHERS)]
    return [key for key in keys if not is_setting(key)] + wrong_choices(text)


_groups = functools.cache(group_options)


def wrong_choices(text: str) -> list[str]:
    groups = _groups()
    free = ("mine", "group")
    return [
        f"{group}={option}"
        for group, option in CHOICE.findall(text)
        if group in groups and option not in (*groups[group], "null", *free)
    ]


def test_keys_that_other_trainers_names_lead_to() -> None:
    for key in [*SHORT.values(), *(option.key for option in OPTIONS.values())]:
        if key and "…" not in key and "=" not in key:
            assert is_setting(key), key


@pytest.mark.parametrize(
    "overrides",
    [
        [f"targets.blocks.lr_factor={[1.0] * 25}".replace(" ", "")],
        [f"targets.blocks.rank={[4] * 25}".replace(" ", ""), "targets=unet_only"],
        ["objective/noise=offset", "objective.noise.offset.strength=0.05"],
        ["objective/noise=[offset,multires]", "objective.noise.multires.discount=0.2"],
    ],
)
def test_as_it_is_written(overrides: list[str]) -> None:
    try:
        checked(overrides)
    except UserError as error:
        pytest.fail(str(error))
