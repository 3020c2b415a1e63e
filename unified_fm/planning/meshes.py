"""Whether a mesh can be laid over a topology, and else the nearest that can."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping

from unified_fm import constraints, setup, sharding


def check(ready: setup.Prepared) -> None:
    """Refuses a mesh that cannot be made, that does not divide what it must, or wastes devices.

    Raises:
        ValueError: why, and the nearest mesh that can be made.
    """
    _ = ready.params, ready.teacher_shapes  # what these refuse is no fault of the mesh
    sizes = ready.settings.mesh.plain()
    try:
        _make(ready, sizes, idle=sizes["tensor"] == -1)
    except ValueError as error:
        nearest = _nearest(ready)
        if nearest is None:
            rules = f"config.rules.sharding = {ready.settings.rules.sharding!r}"
            raise ValueError(
                f"{error}\nno other mesh of these devices does either, with {rules}"
            ) from error
        told = " ".join(f"--config.mesh.{axis}={size}" for axis, size in nearest.items())
        raise ValueError(f"{error}\nthe nearest mesh that can be made: {told}") from error


def _make(ready: setup.Prepared, sizes: Mapping[str, int], *, idle: bool = False) -> None:
    settings = ready.settings.replace(mesh=ready.settings.mesh.replace(**sizes))
    constraints.check(
        dataclasses.replace(ready, settings=settings).mesh,
        ready.program,
        ready.shapes,
        ready.params,
        taught=ready.teacher_shapes,
        rules=ready.settings.rules.sharding,
        idle=idle,
    )


def _nearest(ready: setup.Prepared) -> dict[str, int] | None:
    devices = ready.devices or ()
    asked = _whole(ready, len(devices))
    found = sorted(_shapes(len(devices)), key=lambda sizes: _distance(asked, sizes))
    for sizes in found:
        named: dict[str, int] = dict(zip(map(str, sharding.AXES), sizes, strict=True))
        try:
            _make(ready, named)
        except ValueError:
            continue
        return named
    return None


def _whole(ready: setup.Prepared, count: int) -> tuple[float, ...]:
    """The sizes that were asked for, with what -1 comes to, be it no integer."""
    sizes = ready.settings.mesh.plain()
    known = math.prod(size for size in sizes.values() if size != -1)
    return tuple(count / known if sizes[a] == -1 else float(sizes[a]) for a in sharding.AXES)


def _shapes(count: int) -> Iterator[tuple[int, int, int]]:
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    for fsdp, tensor in itertools.product(divisors, divisors):
        if count % (fsdp * tensor) == 0:
            yield count // (fsdp * tensor), fsdp, tensor


def _distance(asked: tuple[float, ...], sizes: tuple[int, ...]) -> float:
    """How many doublings lie between two meshes; changing `tensor` changes most."""
    weights = (1.0, 1.1, 2.0)
    pairs = zip(weights, asked, sizes, strict=True)
    return sum(weight * abs(math.log2(a / b)) for weight, a, b in pairs)
