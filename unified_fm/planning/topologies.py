"""Devices that are not here: a topology by name, and the compiler that knows its chips.

    topology = topologies.parse("v5e:16x16")      # or v4:, v5p:, v6e:, h100:8x4 = 4 hosts of 8
    compiler = topologies.compiler(topology)      # "tpu", "gpu" or "cpu", whichever is installed
    devices = topologies.devices(topology, compiler)

A TPU's compiler is libtpu, a GPU's the CUDA plugin of JAX; neither needs the device. Without them,
or for `cpu:8`, as many simulated CPU devices stand in, and XLA's CPU compiler cuts the program.
"""

import dataclasses
import importlib.metadata
import importlib.util
import logging
import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jax
from jax._src import xla_bridge
from jax.experimental import topologies

from unified_fm import choices
from unified_fm.planning.chips import Chip, chip

COMPILERS = ("auto", "tpu", "gpu", "cpu")
# Which compiler knows the chips of a platform, and the modules that it consists of.
_OF_PLATFORM = {"tpu": "tpu", "cuda": "gpu", "cpu": "cpu"}
_MODULES = {"tpu": ("libtpu",), "gpu": ("jax_plugins.xla_cuda12",), "cpu": ()}
# How libtpu names these chips, where it is not our name. One v4 or v5p device is a chip of two
# cores ("megacore"), in trays of 2 x 2 chips; a slice of whole cubes of 4 x 4 x 4 is a torus.
_LIBTPU_NAMES = {"v5p": "v5"}
_MEGACORE = ("v4", "v5p")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
    """Chips and how they lie.

    Attributes:
        text: as it was written, "v5e:16x16".
        chip: of which there are `sizes` many: along the axes of a TPU slice; GPUs of a host, hosts.
    """

    text: str
    chip: Chip
    sizes: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of devices."""
        return math.prod(self.sizes)

    @property
    def hosts(self) -> int:
        """How many machines a GPU topology has; 1 for a slice, which is one network."""
        return self.sizes[1] if self.chip.platform == "cuda" and len(self.sizes) > 1 else 1


def parse(text: str) -> Topology:
    """Reads "CHIP:SIZExSIZE".

    Raises:
        ValueError: what is wrong with it, and what is possible.
    """
    name, _, sizes = text.partition(":")
    found = chip(name)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){0,2}", sizes):
        raise ValueError(
            f"topology {text!r}: after the colon stand sizes, as in v5e:4x4, v5p:4x4x4 or h100:8x4 "
            "(8 GPUs on each of 4 hosts)"
        )
    numbers = tuple(int(size) for size in sizes.split("x"))
    wanted = {"tpu": (3,) if name in _MEGACORE else (2,), "cuda": (1, 2), "cpu": (1, 2)}
    if len(numbers) not in wanted[found.platform]:
        example = "4x4x4" if name in _MEGACORE else "4x4" if found.platform == "tpu" else "8x4"
        raise ValueError(
            f"topology {text!r} has {len(numbers)} size(s); {name} has "
            f"{' or '.join(map(str, wanted[found.platform]))}, as in {name}:{example}"
        )
    return Topology(text=text, chip=found, sizes=numbers)


def compiler(topology: Topology, wanted: str = "auto") -> str:
    """The compiler to use: "tpu", "gpu" or "cpu".

    Args:
        topology: for which.
        wanted: one of `COMPILERS`; "auto" is the chip's own where it is installed, else "cpu".

    Raises:
        ValueError: one that does not know these chips, or is not installed, with how to get it.
    """
    choices.check("compiler", wanted, COMPILERS)
    own = _OF_PLATFORM[topology.chip.platform]
    if wanted == "auto":
        return own if installed(own) else "cpu"
    if wanted not in (own, "cpu"):
        raise ValueError(
            f"--compiler={wanted} does not know the chips of {topology.text}; possible: auto, "
            f"{', '.join(dict.fromkeys((own, 'cpu')))}"
        )
    if not installed(wanted):
        raise ValueError(f"--compiler={wanted} is not installed; get it by\n  {install(wanted)}")
    return wanted


def installed(name: str) -> bool:
    """Whether a compiler's packages are here."""
    for module in _MODULES[name]:
        try:
            if importlib.util.find_spec(module) is None:
                return False
        except ModuleNotFoundError:
            return False
    return True


def install(name: str) -> str:
    """The line that installs a compiler beside the JAX that is here; no driver comes with it."""
    version = importlib.metadata.version("jax")
    if name == "gpu":
        parts = [f"jax-cuda12-plugin=={version}", f"jax-cuda12-pjrt=={version}"]
        return f"pip install --no-deps {' '.join(parts)} nvidia-cuda-nvcc-cu12"
    for line in importlib.metadata.requires("jax") or ():
        if found := re.match(r"(libtpu\s*[^;\s]*)", line):
            return f'pip install --no-deps "{found[1]}"'
    return "pip install --no-deps libtpu"


def prepare(count: int) -> None:
    """Sets up this process, before its first device: CPU devices alone, no search for others."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # no questions to a cloud's metadata server
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")  # nor a search for hosts,
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "none")  # of which the topology tells
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no lock: nothing is run on a chip
    # Without a GPU nothing can be timed, so the compiler must not choose by that. Products are the
    # library's: a kernel of the compiler's own that nobody has tuned may not even compile.
    flags = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    # A program for absent devices cannot be loaded, nor therefore kept.
    jax.config.update("jax_enable_compilation_cache", False)


def devices(topology: Topology, compiler: str) -> Sequence[Any]:
    """The devices, which are good for compiling and for nothing else; see `prepare`.

    Raises:
        ValueError: the compiler does not know the topology, in its words.
    """
    try:
        if compiler == "tpu":
            return _tpu(topology)
        if compiler == "gpu":
            return _gpu(topology)
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(f"topology {topology.text}: {error}") from error
    return jax.devices("cpu")[: topology.count]


def hosts(devices: Iterable[Any], topology: Topology, compiler: str) -> list[int]:
    """The number of each device's host.

    Simulated devices all lie in this process, so where they stand in for GPUs their numbers tell.

    Args:
        devices: those of `devices`, in whatever order.
        topology, compiler: of which and for which they are.
    """
    if compiler == "cpu" and topology.chip.platform == "cuda":
        return [device.id // topology.sizes[0] for device in devices]
    return [device.process_index for device in devices]


def _tpu(topology: Topology) -> Sequence[Any]:
    name = topology.chip.name
    options: dict[str, Any] = {}
    if name in _MEGACORE:
        bounds = tuple(min(2, size) for size in topology.sizes[:2])
        options = {
            "chip_config_name": "megacore",
            "chips_per_host_bounds": (*bounds, 1),
            "wrap": tuple(size % 4 == 0 for size in topology.sizes),
        }
    sizes = "x".join(map(str, topology.sizes))
    described = f"{_LIBTPU_NAMES.get(name, name)}:{sizes}"
    return topologies.get_topology_desc(described, "tpu", **options).devices


def _gpu(topology: Topology) -> Sequence[Any]:
    # It also tries to start the plugin, which finds no driver and says so.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.CRITICAL)
    logging.getLogger("jax_plugins.xla_cuda12").setLevel(logging.CRITICAL)
    xla_bridge.discover_pjrt_plugins()
    return topologies.get_topology_desc(
        "",
        "cuda",
        target_config=_target(topology.chip),
        topology=f"1x{topology.hosts}x{topology.sizes[0]}",
    ).devices


# What XLA's GPU compiler has to know of a chip (its `GpuTargetConfigProto`), of the makers' tuning
# guides: cores, clock in GHz, shared memory of a core, L2 cache and usable memory in bytes, compute
# capability.
_TARGETS = {
    "a100": (108, 64, 1.41, 167_936, 166_912, 41_943_040, 85_100_068_864, 8),
    "h100": (132, 128, 1.98, 233_472, 232_448, 52_428_800, 84_942_979_072, 9),
    "h200": (132, 128, 1.98, 233_472, 232_448, 52_428_800, 151_397_597_184, 9),
}


def _target(chip: Chip) -> str:
    cores, lanes, clock, shared, most, cache, memory, major = _TARGETS[chip.name]
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {chip.bandwidth:.0f}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {most}
  cuda_compute_capability {{ major: {major} minor: 0 }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
device_description_str: "{chip.accelerator}"
"""
