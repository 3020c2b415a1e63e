"""The processes of one run: which of them this one is, and what must be the same in all."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("jax", "jaxlib", "numpy", "flax", "optax", "orbax-checkpoint", "grain")
# Settings of JAX that change numbers without any line of the config saying so.
_NUMERIC = ("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl")
_NUMERIC += ("jax_threefry_partitionable", "jax_numpy_dtype_promotion")
_SHOWN = 10


class Refused(RuntimeError):
    """The processes cannot run together; the text says which and why."""


@dataclasses.dataclass(frozen=True)
class Place:
    """This is process `index` of `count`; process 0 is reached at `host` and `port`."""

    host: str
    port: int
    index: int
    count: int

    @property
    def address(self) -> str:
        """HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def place(coordinator: str | None, process: str | None) -> Place:
    """Reads `--coordinator=HOST:PORT` and `--process=I/N`.

    Raises:
        Refused: one of them is missing or cannot be; says what was found.
    """
    if not coordinator or not process:
        missing = "--process=I/N" if coordinator else "--coordinator=HOST:PORT"
        raise Refused(f"--coordinator=HOST:PORT and --process=I/N go together; {missing} lacks")
    index, slash, count = process.partition("/")
    if not (slash and _number(index) and _number(count)):
        raise Refused(f"--process=I/N is two numbers (the first of four: 0/4), found {process}")
    if not int(index) < int(count):
        raise Refused(
            f"--process={process}: of N = {int(count)} processes the first is 0 and the last "
            f"{int(count) - 1}"
        )
    host, port = _host_and_port(coordinator)
    return Place(host, port, int(index), int(count))


def placed(address: str, index: int, count: int) -> Place:
    """The same from what a cluster's environment says."""
    host, port = _host_and_port(address)
    return Place(host, port, index, count)


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not colon or not host or "/" in host or (":" in host and not address.startswith("[")):
        raise Refused(
            f"--coordinator=HOST:PORT is the host of process 0 and a free port there "
            f"(10.0.0.1:1234, [::1]:1234), found {address!r}"
        )
    if not _number(port) or not 0 < int(port) < 65536:
        raise Refused(f"--coordinator={address}: a port is a number of 1 to 65535")
    return host, int(port)


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def in_cluster() -> bool:
    """Whether the environment names other processes: a TPU pod, SLURM, MPI, or JAX's variables."""
    environment = os.environ
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    counts = (environment.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    several = len(hosts) > 1 or any(n.isdigit() and int(n) > 1 for n in counts)
    return several or bool(environment.get("JAX_COORDINATOR_ADDRESS"))


def facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """What must be the same in all processes before any of them touches a device.

    Args:
        config: complete, of the run.

    Returns:
        {name: JSON value}: every setting, the versions, a hash of this library's code.
    """
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    versions["python"] = platform.python_version()
    numeric = {name: str(getattr(jax.config, name, None)) for name in _NUMERIC}
    code = {"unified_fm's code": _hash_of(Path(__file__).parents[1])}
    settings = _flat(json.loads(json.dumps(config, default=str)), "config")
    code["order of the settings"] = _digest("\n".join(settings).encode())
    return settings | {f"version of {k}": v for k, v in versions.items()} | numeric | code


def hashes_of(modules: Iterable[str]) -> dict[str, str]:
    """{"module NAME": hash of its code} of modules and packages, of a package with all below it.

    What is not there, or is no Python file, has none.
    """
    found = {}
    for name in modules:
        with contextlib.suppress(ModuleNotFoundError):  # its package is missing
            spec = importlib.util.find_spec(name)
            places = spec and (spec.submodule_search_locations or [spec.origin])
            paths = [Path(place) for place in places or () if place and Path(place).exists()]
            if paths:
                found[f"module {name}"] = "+".join(map(_hash_of, paths))
    return found


def alike(found: Sequence[Mapping[str, Any]]) -> None:
    """Compares the facts of all processes with those of process 0.

    Raises:
        Refused: names every worker that differs, and what differs with both values.
    """
    lines = []
    for index, other in enumerate(found):
        names = [n for n in {**found[0], **other} if _text(found[0], n) != _text(other, n)]
        lines += [
            f"worker {index} has {name} = {_text(other, name)}, worker 0 has "
            f"{_text(found[0], name)}"
            for name in names[:_SHOWN]
        ]
        if len(names) > _SHOWN:
            lines.append(f"worker {index}: and {len(names) - _SHOWN} more")
    if lines:
        raise Refused("\n  ".join(["the workers were not started alike:", *lines]))


def _text(values: Mapping[str, Any], name: str) -> str:
    text = json.dumps(values[name], sort_keys=True) if name in values else "nothing"
    return text if len(text) <= 200 else f"{text[:160]}... ({_digest(text.encode())})"


def _flat(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        parts = [
            _flat(inner, f"{path}.{key}" if path else str(key)) for key, inner in value.items()
        ]
        return {name: inner for part in parts for name, inner in part.items()}
    return {path: value}


def _hash_of(path: Path) -> str:
    """A hash of a Python file, or of all those in a folder and below."""
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.relative_to(path.parent).as_posix()}\0".encode() + file.read_bytes())
    return total.hexdigest()[:12]


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
