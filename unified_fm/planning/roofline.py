"""The least time of a step on a chip: what it computes, moves and sends, at the peaks."""

import dataclasses
from collections.abc import Iterable, Sequence

from unified_fm.planning.chips import Chip
from unified_fm.planning.traffic import Collective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
    """Seconds of one step on one device, each as if there were nothing else.

    Attributes:
        compute: matrix products at the peak of bfloat16.
        memory: HBM at its bandwidth.
        links: the interconnect.
    """

    compute: float
    memory: float
    links: float

    @property
    def least(self) -> float:
        """If all three go on at the same time."""
        return max(self.compute, self.memory, self.links)

    @property
    def most(self) -> float:
        """If none goes on while another does; still at peak rates."""
        return self.compute + self.memory + self.links

    @property
    def bound(self) -> str:
        """Which of them takes longest."""
        times = {"compute": self.compute, "HBM": self.memory, "interconnect": self.links}
        return max(times, key=lambda name: times[name])


def of(
    chip: Chip,
    *,
    flops: float,
    moved: float,
    collectives: Iterable[Collective],
    hosts: Sequence[int],
) -> Roofline:
    """The roofline of a step.

    Args:
        chip: its peaks.
        flops, moved: of one device; see `work`.
        collectives: of one device. One whose group spans hosts goes at the rate of the network.
        hosts: of each device, in the order of the mesh.
    """
    links = 0.0
    for each in collectives:
        far = len({hosts[place] for place in each.group}) > 1
        links += each.moved / (chip.network if far else chip.links)
    return Roofline(compute=flops / chip.flops, memory=moved / chip.bandwidth, links=links)
