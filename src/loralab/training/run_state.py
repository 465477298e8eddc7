"""What a run knows of itself while it trains, in one place for module, callbacks and files."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loralab import signals
from loralab.ranks import Ranks
from loralab.stages import Stages
from loralab.training.pace import Pace

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class RunState:
    """Every fact has one who sets it, named with it, and is there for all to read."""

    folder: Path
    """Where the run writes: its first process, and each its log of sample losses."""
    settings: dict[str, Any]
    """The composed configuration, plain values."""
    own: list[str] = field(default_factory=list)
    """The overrides that differ from the other runs of its sweep."""
    resumed_from: Path | None = None
    """The folder of the run that saved the state which is resumed; set before training starts."""
    ranks: Ranks = field(default_factory=Ranks)
    """This process among those of the run; set when they are connected, before training starts."""
    signature: dict[str, Any] = field(default_factory=dict)
    """What can change the result (see signature); set before training starts."""
    pace: Pace = field(default_factory=Pace)
    """The module counts; whoever does other work pauses it."""
    stages: Stages = field(default_factory=lambda: Stages(time.time()))
    """How long the start took; by who does the work."""
    compiled: dict[str, Any] | None = None
    """What compiling the denoiser's blocks gave, and whether they are; by Compiled, and before it by the state that is
    resumed."""
    loss: Tensor | None = None
    """() on the device of the training, smoothed over about 50 batches; by the module."""
    position: tuple[int, int] = (0, 0)
    """(epoch, its batches done) after the last optimizer step; by the module, and by Resumed before the first."""
    between_steps: bool = True
    """Whether weights, optimizer and schedule are those after a whole optimizer step, so that a state can be saved: the
    module ends it, Health begins it again."""
    skipped: bool = False
    """Whether the last optimizer step was skipped because its gradient was not finite; by Health."""
    interrupted: bool = False
    """Whether a signal ended the training; by Interrupt."""
    assure: Callable[[], None] = lambda: None
    """Called before the weights are looked at or saved; raises if they are unusable; Health's."""

    make_room: Callable[[], None] = lambda: None
    """Called before pictures and validation; frees memory of the device if little is left; by CudaGraphs."""

    def is_ending(self) -> bool:
        """Whether a signal asked this process, or all of the run, to end."""
        return self.interrupted or signals.received() is not None
