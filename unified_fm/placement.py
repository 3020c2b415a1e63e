"""What a mesh asks of the arrays inside a step, while the step is traced.

The model, the objectives and the step do not know the mesh. They say where rows are joined and
where parameters are about to be used; the placement in force says what that means on the devices.
Without one nothing is asked: one device, or an evaluation.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax


def _as_it_is(x: Any) -> Any:
    return x


def _as_they_are(path: str, params: Any) -> Any:
    del path
    return params


def _uncut(x: jax.Array, axis: int) -> jax.Array:
    del axis
    return x


@dataclasses.dataclass(frozen=True)
class Placement:
    """What is done on one mesh.

    Attributes:
        shards: parts into which the mesh cuts the rows of a batch. Rows are joined inside these
            parts, so that no device needs another's.
        rows: `x -> x`, for an array with rows on axis 0: they are cut into the parts.
        params: `(path, tree) -> tree`, for parameters that are used next: gathered from the devices
            that store them. `path` is that of the tree's root, "" for all.
        platform: "cpu", "gpu" or "tpu", which the step will run on; None = JAX's default. A step
            may be compiled where no such device is.
        splits: parts into which the mesh cuts heads, hidden layers and the vocabulary.
        split: `(x, axis) -> x`, for an array that is cut into these parts along an axis.
        summed: `(x, axis) -> x`, for a part of a parameter that is used again and again (in a
            loop): each gradient of it is summed over the devices in parts along an axis, so that
            none gets the whole of it.
    """

    shards: int = 1
    rows: Callable[[jax.Array], jax.Array] = _as_it_is
    params: Callable[[str, Any], Any] = _as_they_are
    platform: str | None = None
    splits: int = 1
    split: Callable[[jax.Array, int], jax.Array] = _uncut
    summed: Callable[[jax.Array, int], jax.Array] = _uncut


NOWHERE = Placement()
_current = contextvars.ContextVar("placement", default=NOWHERE)


def current() -> Placement:
    """The placement in force."""
    return _current.get()


def platform() -> str:
    """What the step that is traced will run on: "cpu", "gpu" or "tpu"."""
    return current().platform or jax.default_backend()


@contextlib.contextmanager
def use(placement: Placement) -> Iterator[None]:
    """Puts a placement in force, for what is traced inside."""
    token = _current.set(placement)
    try:
        yield
    finally:
        _current.reset(token)
