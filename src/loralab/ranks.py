"""The processes of a run, one for each device, and what they tell each other besides gradients."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from loralab import rendezvous
from loralab.errors import Problem, UserError

if TYPE_CHECKING:
    from lightning import Trainer

T = TypeVar("T")
PATIENCE = timedelta(days=20)
"""How long a process waits for the others, which may encode images or draw pictures; one that ends, ends the wait."""


class OutOfStep(RuntimeError):
    """This process failed in what the others do at the same time: they wait for it, so the run cannot go on."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of its run. The default: it is alone."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    """Its number on this machine."""
    local_world: int = 1
    group: Any = field(default=None, compare=False)
    """The process group of what they tell each other: on the CPU, and without the time-out of that of the gradients."""

    @classmethod
    def join(cls, trainer: Trainer) -> Ranks:
        """Connects the processes of a trainer, before it does; all call this."""
        if trainer.world_size == 1:
            return cls()
        import torch.distributed as dist

        with rendezvous.afresh():
            trainer.strategy.setup_environment()
        group = dist.new_group(backend="gloo", timeout=PATIENCE)
        return cls(trainer.global_rank, trainer.world_size, trainer.local_rank, trainer.num_devices, group)

    def leave(self) -> None:
        """Ends the connection, so that a further run of this process can make its own."""
        import torch.distributed as dist

        if dist.is_initialized():
            with suppress(Exception):  # another process may be gone
                dist.destroy_process_group()

    def gather(self, own: T) -> list[T]:
        """What each process gives, in the order of their ranks; waits as long as it takes."""
        if self.group is None:
            return [own]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, own, group=self.group)
        return found

    def of_first(self, own: T) -> T:
        """What the first process gives."""
        if self.group is None:
            return own
        import torch.distributed as dist

        found = [own]
        dist.broadcast_object_list(found, 0, group=self.group)
        return found[0]

    def shares(self) -> list[tuple[int, int]]:
        """(part, parts) of work that this process takes, one after the other, as long as anything is left of it: with
        all processes; with those of its machine, where machines do not see each other's results; alone."""
        shares = [(self.rank, self.world), (self.local_rank, self.local_world), (0, 1)]
        return [share for number, share in enumerate(shares) if share not in shares[number + 1 :]]

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raises a UserError, in all, that names the facts in which processes differ."""
        every = self.gather(dict(facts))
        if problems := [
            Problem(key, _told([each.get(key) for each in every]), "start all processes of a run with the same")
            for key in dict.fromkeys(key for each in every for key in each)
            if any(each.get(key) != every[0].get(key) for each in every)
        ]:
            raise UserError(*problems)


def _told(values: list[Any]) -> str:
    """Which ranks have which value."""
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(repr(value), []).append(str(rank))
    words = [f"{value} in rank {', '.join(of[:8])}{' …' * (len(of) > 8)}" for value, of in ranks.items()]
    return f"the processes of this run differ: {'; '.join(words)}"


def is_lost(error: BaseException) -> bool:
    """Whether an error says that another process cannot be reached any more."""
    import torch.distributed as dist

    told = isinstance(error, RuntimeError) and any(library in str(error) for library in ("gloo", "NCCL"))
    return told or isinstance(error, dist.DistError)
