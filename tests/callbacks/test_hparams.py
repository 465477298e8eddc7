"""What the loggers are told: settings as columns, pictures by their prompts. What TensorBoard makes of it stands in
tests/report/test_report.py, what is read back from the others in tests/report/test_loggers.py."""

from __future__ import annotations

from loralab.callbacks.hparams import columns
from loralab.callbacks.logged_pictures import titles
from loralab.callbacks.prompts import Prompt


def test_what_is_swept_is_a_column() -> None:
    """Whatever it is: a group, an option of a group, a list, a setting that is usually one, a new one."""
    settings = {"optimizer": {"_target_": "bitsandbytes.optim.Adam8bit", "lr": 1e-3}, "data": {"resolution": [64, 32]}}
    settings |= {"trainer": {"limits": [1, 2]}, "mine": {"on": True}}
    own = ["optimizer=adam8bit", "objective/loss=l1", "trainer.limits=[1,2]", "+mine.on=true"]
    found = {name: value for name, value in columns(settings, own).items() if value is not None}
    assert found.pop("data.resolution") == "[64, 32]"
    assert found == {
        "optimizer": "adam8bit",
        "optimizer.lr": 1e-3,
        "objective/loss": "l1",
        "trainer.limits": "[1,2]",
        "mine.on": True,
    }
    assert columns(settings, [])["optimizer"] == "Adam8bit"


def test_pictures_are_called_by_their_prompts() -> None:
    """The same words twice: by what differs, else by number."""
    one = {"negative": "", "width": 64, "height": 64, "steps": 1, "guidance": 7.0}
    seeds = [Prompt("a  star,\nred", seed=seed, **one) for seed in (0, 1)]
    assert titles(seeds) == ["a star, red · seed 0", "a star, red · seed 1"]
    assert titles([seeds[0], seeds[0], Prompt("", seed=0, **one)]) == [
        "a star, red · 1",
        "a star, red · 2",
        "(no words)",
    ]
    assert len(titles([Prompt("word " * 100, seed=0, **one)])[0]) <= 80
