"""Where the processes of a run find each other under torchrun, also after it has started some of them again."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

LONGEST = timedelta(minutes=5)
"""How long a process waits for the first one to begin."""
_PORT = "loralab/port"


@contextmanager
def afresh() -> Iterator[None]:
    """Within it processes that torchrun has started connect by a store of the first of them, not by the agent's.

    The agent's outlives the processes: those started again would read in it what the ones before wrote, and wait for
    them. Raises a DistNetworkError where the first process does not begin.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True):
        yield
        return
    from torch.distributed import DistNetworkError, TCPStore  # type: ignore[attr-defined]

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    agents = TCPStore(host, port, is_master=False, timeout=LONGEST)
    if os.environ["RANK"] == "0":
        store = TCPStore(host, 0, is_master=True, multi_tenant=True, wait_for_workers=False)
        agents.set(_PORT, str(store.port))
    until = time.monotonic() + LONGEST.total_seconds()
    while not _answers(host, found := int(agents.get(_PORT))):  # that of a process which was killed
        if time.monotonic() > until:
            raise DistNetworkError(f"nothing answers at {host}:{found}")
        time.sleep(0.2)
    os.environ |= {"MASTER_PORT": str(found), "TORCHELASTIC_USE_AGENT_STORE": str(False)}
    yield


def _answers(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False
