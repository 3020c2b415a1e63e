"""IMTL-G: the gradient whose projections on all groups' directions are equal."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unified_fm.optim import linear
from unified_fm.optim.merge.base import Groups, Merge, divide, weighted

_RIDGE = 1e-6  # keeps parallel gradients solvable


def merge(*, groups: Sequence[str], shared: str = ".*") -> Merge:
    """Weights that sum to 1 and project equally on every group's unit gradient (Liu et al. 2021).

    For two groups `n1 n2 / (n1 + n2) (u1 + u2)`: the bisector, as in `nash`, with another length,
    so the two are nearly one method under Adam. A group without a gradient takes no part.

    Args:
        groups, shared: see `base.Groups`; two groups or more.
    """
    members = Groups(names=groups, shared=shared, merge="imtl_g")

    def weigh(gram, state, losses):
        del losses
        return weights(gram.dots[0])[None], state

    return weighted(members, weigh)


def weights(gram: jax.Array) -> jax.Array:
    """f32[K] that sum to 1; they may be negative for three or more groups, as published."""
    norms = jnp.sqrt(jnp.diag(gram))
    inverse = divide(1.0, norms)
    alive = norms > 0
    if len(gram) == 2:
        along = alive.astype(gram.dtype)  # equal shares of the two directions
    else:
        cosines = gram * jnp.outer(inverse, inverse)
        cosines = jnp.where(jnp.eye(len(gram), dtype=bool), 1.0 + _RIDGE, cosines)
        along = jnp.where(alive, linear.solve(cosines, alive.astype(gram.dtype)), 0.0)
    found = along * inverse
    return divide(found, found.sum())
