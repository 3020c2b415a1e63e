"""What chips can do: the numbers that a plan compares a program with.

All are of one chip, as JAX sees it (a TPU v4 or v5p chip has two cores and is one device), by its
maker's data sheet: peaks that no program reaches.
"""

import dataclasses
import math

from unified_fm import choices

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of chip.

    Attributes:
        name: as a topology is written, "v5e".
        platform: of JAX, "tpu", "cuda" or "cpu".
        flops: a second, dense, in bfloat16.
        memory: bytes of its HBM.
        bandwidth: bytes a second of its HBM.
        links: bytes a second that it receives over the interconnect of its slice or host.
        network: bytes a second that it receives from other hosts where these are no slice; equal to
            `links` on a TPU.
        accelerator: what the target description of XLA's GPU compiler says; see `topologies`.
    """

    name: str
    platform: str
    flops: float
    memory: float
    bandwidth: float
    links: float
    network: float
    accelerator: str = ""


def _tpu(name: str, tera: float, gib: float, giga: float, gbits: float) -> Chip:
    links = gbits / 8 * 1e9
    return Chip(
        name=name,
        platform="tpu",
        flops=tera * 1e12,
        memory=gib * GIB,
        bandwidth=giga * 1e9,
        links=links,
        network=links,
    )


# TPUs: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, "System architecture": peak compute per chip
# (bf16), HBM capacity and bandwidth, interchip interconnect bandwidth in Gbps (all links, one way).
# GPUs: NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM: dense BF16 Tensor Core (half
# of the figure "with sparsity"), memory, its bandwidth, NVLink (half of the figure, which adds both
# ways). Between hosts one network adapter for each GPU, as DGX systems have: 200 Gb/s with A100,
# 400 Gb/s with H100 and H200.
CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v4", 275, 32, 1228, 2400),
        _tpu("v5e", 197, 16, 819, 1600),
        _tpu("v5p", 459, 95, 2765, 4800),
        _tpu("v6e", 918, 32, 1640, 3584),
        Chip(
            name="a100",
            platform="cuda",
            flops=312e12,
            memory=80e9,
            bandwidth=2.039e12,
            links=300e9,
            network=25e9,
            accelerator="NVIDIA A100-SXM4-80GB",
        ),
        Chip(
            name="h100",
            platform="cuda",
            flops=989e12,
            memory=80e9,
            bandwidth=3.35e12,
            links=450e9,
            network=50e9,
            accelerator="NVIDIA H100 80GB HBM3",
        ),
        Chip(
            name="h200",
            platform="cuda",
            flops=989e12,
            memory=141e9,
            bandwidth=4.8e12,
            links=450e9,
            network=50e9,
            accelerator="NVIDIA H200 141GB HBM3e",
        ),
        # Simulated devices of this machine, which have no speed of their own.
        Chip(
            name="cpu",
            platform="cpu",
            flops=math.inf,
            memory=math.inf,
            bandwidth=math.inf,
            links=math.inf,
            network=math.inf,
        ),
    )
}


def chip(name: str) -> Chip:
    """The chip of that name.

    Raises:
        ValueError: there is none, with the nearest.
    """
    if name not in CHIPS:
        raise ValueError(f"no chip {name!r} is known; {choices.possible(name, CHIPS)}")
    return CHIPS[name]
