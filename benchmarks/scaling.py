"""What to expect of one to 1024 GPUs: a calculation, printed as the tables of docs/scaling.md.

python benchmarks/scaling.py
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log, log2, sqrt

DEVICES = (1, 2, 8, 16, 64, 256, 1024)
PER_MACHINE = 8
FLOPS = 400e12
"""Operations a second that a device sustains in bf16: 40% of an H100's."""
SPREAD = 0.02
"""Standard deviation of a device's step, as a share of it."""
DISK = 2e9
"""Bytes a second that a machine reads from a disk of its own."""
SERVER = 10e9
"""Bytes a second that all machines together read from a common disk."""
SET = 10_000
"""Images of the data set."""


@dataclass(frozen=True)
class Link:
    """A network of GPUs."""

    bandwidth: float
    """Bytes a second of a device, or of a machine: in a ring, gradients enter and leave each machine once."""
    latency: float
    """Seconds of a message."""


NVLINK = Link(300e9, 10e-6)
NETWORKS = {"25 Gbit/s": Link(25e9 / 8, 30e-6), "8 × 400 Gbit/s": Link(8 * 400e9 / 8, 15e-6)}
"""Between machines: one card for all devices of a machine, or one for each."""


@dataclass(frozen=True)
class Training:
    """A training with a LoRA of rank 16, on each device."""

    name: str
    values: int
    """Trained ones."""
    base_bytes: int
    """Of the base model in 16 bits."""
    tflop: float
    """Operations of an image's forward and backward pass."""
    batch: int
    latent_bytes: int
    """Of an image, mean and deviation in fp32."""

    @property
    def gradient_bytes(self) -> int:
        return 4 * self.values

    @property
    def step(self) -> float:
        """Seconds, without waiting."""
        return self.batch * self.tflop * 1e12 / FLOPS

    def exchange(self, devices: int, network: Link) -> float:
        """Seconds of an all-reduce: each device sends and receives 2·(N − 1)/N times the gradients, in 2·log₂N turns
        (Thakur, Rabenseifner & Gropp, Optimization of Collective Communication Operations in MPICH, 2005)."""
        if devices == 1:
            return 0.0
        link = NVLINK if devices <= PER_MACHINE else network
        bandwidth = min(link.bandwidth, NVLINK.bandwidth)
        return 2 * (devices - 1) / devices * self.gradient_bytes / bandwidth + 2 * log2(devices) * link.latency

    def slowest(self, devices: int) -> float:
        """Seconds that the slowest of N devices takes longer than their mean: σ·√(2·ln N), for large N."""
        return SPREAD * self.step * sqrt(2 * log(devices))

    def efficiency(self, devices: int, network: Link) -> float:
        return self.step / (self.step + self.exchange(devices, network) + self.slowest(devices))

    def loading(self, devices: int) -> tuple[float, float]:
        """Seconds in which all machines have read the base model: from disks of their own, and from a common one."""
        return self.base_bytes / DISK, max(
            self.base_bytes / DISK, -(-devices // PER_MACHINE) * self.base_bytes / SERVER
        )


def transformer_values(rank: int = 16, width: int = 3072, double: int = 19, single: int = 38) -> int:
    """A LoRA's on a transformer of 12 B parameters: blocks with a stream for each of image and text, then common ones;
    queries, keys, values, output and a hidden layer four times as wide, rank · (inputs + outputs) each."""
    attention, hidden = 4 * 2 * width, 2 * 5 * width
    common = 3 * 2 * width + 5 * width + (4 * width + width + width)
    return rank * (double * 2 * (attention + hidden) + single * common)


TRAININGS = (
    Training("SD 1.5, 512 px", 9_437_184, 2 * 982_581_444, 1.40, 8, 2 * 4 * 4 * 64 * 64),
    Training("SDXL, 1024 px", 57_008_128, 2 * 3_385_184_004, 12.3, 4, 2 * 4 * 4 * 128 * 128),
    Training("12 B transformer, 1024 px", transformer_values(), 2 * 12_000_000_000, 275.0, 1, 2 * 4 * 16 * 128 * 128),
)
"""Values and parameters are counted in the models, the operations of SD 1.5 too (docs/benchmarks/train-sd1-512.json);
those of the others follow from their forward passes, of 6 and 125 TFLOP, and the same ratio of both passes to one."""


def table(training: Training) -> list[str]:
    head = ["GPUs", *(f"exchange, {name}" for name in NETWORKS), *(f"efficiency, {name}" for name in NETWORKS)]
    head += ["images/s", "latents read", "base model read, own disks", "common disk", "steps in an epoch"]
    lines = [f"| {' | '.join(head)} |", f"|{'---:|' * len(head)}"]
    for devices in DEVICES:
        networks = NETWORKS.values()
        cells = [str(devices), *(_seconds(training.exchange(devices, network)) for network in networks)]
        cells += [f"{training.efficiency(devices, network):.1%}" for network in networks]
        rate = devices * training.batch / training.step * training.efficiency(devices, [*networks][-1])
        cells += [f"{rate:,.0f}", f"{rate * training.latent_bytes / 1e6:,.1f} MB/s"]
        cells += [_seconds(seconds) for seconds in training.loading(devices)]
        cells += [f"{max(1, -(-SET // (devices * training.batch))):,}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.1 else f"{value * 1e3:.2g} ms"


def page() -> str:
    """The tables, each with what is the same for any number of devices."""
    parts = []
    for training in TRAININGS:
        facts = f"{training.values / 1e6:.1f} M trained values, {training.gradient_bytes / 1e6:.1f} MB of gradients; "
        facts += f"a step of {training.batch} on each device takes {_seconds(training.step)}"
        parts += [f"**{training.name}**: {facts}.", "", *table(training), ""]
    return "\n".join(parts)


if __name__ == "__main__":
    print(page(), end="")
