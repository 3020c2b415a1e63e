"""The rows of one pass through an encoder: whose they are, how they are joined, what is dropped.

One large pass is faster than many small ones, so rows of several streams and views go through an
encoder together. They are joined inside the parts of the mesh: part s of the joined rows is part s
of each, so no device gets rows of another. What is dropped of a row depends on the key of the rows
it came with, not on what they are joined with, nor on the mesh.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from unified_fm import placement

EMBEDDING = 1_000_000  # the number of what comes before the layers, which count from 0
BYTES = 256  # values of one


@flax.struct.dataclass
class Rows:
    """The rows of one pass.

    Attributes:
        sizes: rows of each of the batches that are joined.
        shards: parts of the mesh.
        still: whether no gradient flows through the pass, neither to rows nor to parameters.
        keys: a key of dropout for each of the batches; None = nothing is dropped.
        unpadding: `unpadding.Unpadding` where the states f[S T D] are of tokens, not of rows.
    """

    sizes: tuple[int, ...] = flax.struct.field(pytree_node=False)
    shards: int = flax.struct.field(pytree_node=False, default=1)
    still: bool = flax.struct.field(pytree_node=False, default=False)
    keys: tuple[jax.Array, ...] | None = None
    unpadding: Any = None

    def join(self, parts: Iterable[jax.Array]) -> jax.Array:
        """Arrays [size ...] of all batches as one [sum of sizes ...]."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        cut = [x.reshape(self.shards, -1, *x.shape[1:]) for x in parts]
        return placement.current().rows(
            jnp.concatenate(cut, axis=1).reshape(-1, *parts[0].shape[1:])
        )

    def cut(self, x: jax.Array) -> list[jax.Array]:
        """`join` undone."""
        if len(self.sizes) == 1:
            return [x]
        x = x.reshape(self.shards, -1, *x.shape[1:])
        ends = [sum(self.sizes[: i + 1]) // self.shards for i in range(len(self.sizes))]
        parts = jnp.split(x, ends[:-1], axis=1)
        return [placement.current().rows(part.reshape(-1, *x.shape[2:])) for part in parts]

    def fold(self, number: int | jax.Array) -> "Rows":
        """The same rows with other keys, by a number: of the layer, of the place in it."""
        if self.keys is None:
            return self
        keys = tuple(jax.random.fold_in(key, number) for key in self.keys)
        return dataclasses.replace(self, keys=keys)

    def part(self, number: int) -> "Rows":
        """One of the batches alone."""
        keys = None if self.keys is None else (self.keys[number],)
        return dataclasses.replace(self, sizes=(self.sizes[number],), keys=keys, unpadding=None)

    def keep(self, rate: float | jax.Array, shape: Sequence[int]) -> jax.Array:
        """Draws bool[rows *shape]: False, to be dropped, with probability `rate`."""
        assert self.keys is not None
        return self.join(
            jax.random.bernoulli(key, 1 - rate, (size, *shape))
            for key, size in zip(self.keys, self.sizes, strict=True)
        )

    def keep_bytes(self, rate: float, shape: Sequence[int]) -> jax.Array:
        """As `keep`, where `rate` is one that a byte can draw; see `in_bytes`.

        Four draws come of one random word, in a sixth of the time on CPU. Each row has words of its
        own, so that the draws do not depend on how the mesh cuts the rows.
        """
        assert self.keys is not None
        number = math.prod(shape)
        kept = BYTES - round(rate * BYTES)

        def draw(key: jax.Array, size: int) -> jax.Array:
            words = jax.random.bits(key, (size, -(-number // 4)), jnp.uint32)
            drawn = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(size, -1)
            return (drawn[:, :number] < kept).reshape(size, *shape)

        return self.join(map(draw, self.keys, self.sizes))


def spread(rows: Rows | None, x: jax.Array) -> jax.Array:
    """States f[B L ...] by rows, of x as the layers have them; see `Rows.unpadding`."""
    return x if rows is None or rows.unpadding is None else rows.unpadding.spread(x)


def pack(rows: Rows | None, x: jax.Array) -> jax.Array:
    """`spread` undone."""
    return x if rows is None or rows.unpadding is None else rows.unpadding.pack(x)


def in_bytes(rate: float) -> float:
    """The nearest rate to `rate` that a byte can draw: n/256, n from 1 to 255; 0 for 0 alone."""
    return min(max(round(rate * BYTES), 1), BYTES - 1) / BYTES if rate else 0.0


def dropout(
    rows: Rows | None, x: jax.Array, rate: float | jax.Array, shape: Sequence[int] | None = None
) -> jax.Array:
    """Zeroes elements of x f[rows ...], or whole blocks of a row (`shape` is broadcast).

    Blocks are few, so each has a draw of full precision; elements have a byte each, and the rate is
    the nearest that a byte can draw (0.1016 for 0.1). What is kept is divided by the exact share
    that is kept, so means stay. There is no train flag: rows with keys are the flag.
    """
    if rows is None or rows.keys is None or (isinstance(rate, float | int) and rate == 0):
        return x
    if shape is None:
        assert isinstance(rate, float | int)
        rate = in_bytes(rate)
        shape = x.shape[1:] if rows.unpadding is None else (rows.unpadding.length, *x.shape[2:])
        keep = rows.keep_bytes(rate, shape)
    else:
        keep = rows.keep(rate, shape)
        if rows.unpadding is not None:
            keep = keep.repeat(rows.unpadding.length, axis=1)  # as often as the row has places
    keep = pack(rows, keep)
    scaled = x / jnp.asarray(1 - rate, x.dtype)
    return jnp.where(keep, scaled, jnp.zeros((), x.dtype))
