"""TensorBoard's own server on a folder, asked as its page asks it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

Ask = Callable[..., Any]
ROWS = {"allowedStatuses": [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")], "sliceSize": 99}


def rows(ask: Ask) -> list[dict[str, Any]]:
    """The rows of the HParams tab, by their names."""
    found = ask("plugin/hparams/session_groups", **ROWS)["sessionGroups"]
    return sorted(found, key=lambda row: row["name"])


def tensorboard(folder: Path, runs: int) -> Ask:
    """ask(path, …) gives the server's answer; it has read so many runs."""
    from tensorboard.program import TensorBoard

    server = TensorBoard()
    server.configure([None, "--logdir", str(folder), "--port", "0", "--load_fast", "false", "--reload_interval", "0"])
    url = server.launch()

    def ask(path: str, **request: Any) -> Any:
        with urlopen(f"{url}data/{path}?request={quote(json.dumps(request))}", timeout=60) as answer:
            return json.load(answer)

    until = time.monotonic() + 60
    while len(rows(ask)) < runs:
        assert time.monotonic() < until, "not all runs are shown"
        time.sleep(0.05)
    return ask
