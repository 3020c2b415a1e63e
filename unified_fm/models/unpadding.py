"""Texts without their padding: what is done to each token alone is done to tokens only.

The rows of a batch are as long as a text may be; published captions fill 13.5 of 30 places, names
of regions 9. In a layer only attention looks from token to token. For all else the tokens of the
rows are moved together, f[B L D] -> f[S T D] with S parts of the mesh and room for T tokens in
each, and spread to rows again where attention wants them. Shapes are static, so T is a number of
the config; a batch with more tokens goes the way of all places, by a branch that all devices take
together. Losses and gradients are the same either way.
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from unified_fm import placement
from unified_fm.models.rows import Rows

_MULTIPLE = 8  # of tokens


@flax.struct.dataclass
class Unpadding:
    """Where the tokens of padded rows are.

    Attributes:
        places: i32[S T], the place of each token among those of its part.
        slots: i32[S N], the number of the token at each of a part's N places; any where is none.
        used: bool[S T], whether there is a token.
        held: bool[S N], the same by places.
        length: L, places of a row.
    """

    places: jax.Array
    slots: jax.Array
    used: jax.Array
    held: jax.Array
    length: int = flax.struct.field(pytree_node=False)

    def pack(self, x: jax.Array) -> jax.Array:
        """The tokens f[S T ...] of rows f[B L ...]; zeros behind the last."""
        x = x.reshape(*self.held.shape, *x.shape[2:])
        return placement.current().rows(_taken(x, self.places, self.used, self.slots, self.held))

    def spread(self, x: jax.Array) -> jax.Array:
        """Rows f[B L ...] of the tokens f[S T ...]; zeros where there is none."""
        x = _taken(x, self.slots, self.held, self.places, self.used)
        return placement.current().rows(x.reshape(-1, self.length, *x.shape[2:]))


def either(
    through: Callable[[jax.Array, Rows], jax.Array],
    x: jax.Array,
    rows: Rows,
    held: jax.Array,
    share: float,
) -> jax.Array:
    """`through(x, rows)`, with tokens only where they fit.

    Args:
        through: gives f[B L D] of x f[B L D], or f[S T D] of f[S T D] where `rows.unpadding` is.
        x: f[B L D].
        rows: whose.
        held: bool[B L], the places that hold a token.
        share: T as a share of the places.

    Returns:
        f[B L D]; at places without a token, anything.
    """
    parts = held.reshape(rows.shards, -1)
    count = parts.shape[1]
    room = min(count, -(-int(share * count) // _MULTIPLE) * _MULTIPLE)
    number = parts.sum(axis=1)
    unpadding = Unpadding(
        places=jnp.argsort(~parts, axis=1, stable=True)[:, :room],
        slots=jnp.clip(parts.cumsum(axis=1) - 1, 0, room - 1),
        used=jnp.arange(room) < number[:, None],
        held=parts,
        length=held.shape[1],
    )

    def tokens(x):
        packed = dataclasses.replace(rows, unpadding=unpadding)
        return unpadding.spread(through(unpadding.pack(x), packed))

    return jax.lax.cond(jnp.all(number <= room), tokens, lambda x: through(x, rows), x)


@jax.custom_vjp
def _taken(x, index, there, back, held):
    """x f[S N ...] at index i32[S T], zeros but where `there` bool[S T].

    `back` i32[S N] and `held` bool[S N] undo it: the gradient is no scatter, but a look-up again.
    """
    del back, held
    found = jax.vmap(lambda rows, places: rows[places])(x, index)
    there = there.reshape(*there.shape, *[1] * (x.ndim - 2))
    return jnp.where(there, found, jnp.zeros((), x.dtype))


def _taken_forward(x, index, there, back, held):
    return _taken(x, index, there, back, held), (index, there, back, held)


def _taken_backward(kept, gradient):
    index, there, back, held = kept
    return _taken(gradient, back, held, index, there), None, None, None, None


_taken.defvjp(_taken_forward, _taken_backward)
