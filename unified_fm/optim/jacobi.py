"""Singular values of a few columns, exact to rounding however different their lengths are.

One-sided Jacobi: pairs of columns are turned until all are orthogonal. The small singular values of
columns of very different length keep their digits (Demmel & Veselic 1992), which an
eigendecomposition of their dot products loses: float32 sees nothing below 1e-7 of the largest.
"""

import jax
import jax.numpy as jnp
import numpy as np

_SWEEPS = 10  # it converges quadratically; a handful of columns needs 4 to 6


def columns(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Singular values f[K], in no order, and right singular vectors f[K K] of a matrix f[M K]."""
    count = matrix.shape[1]
    partners = jnp.asarray(_rounds(count))

    def turn(number, state):
        left, right = state
        partner = partners[number % len(partners)]
        squares = (left * left).sum(0)
        product = (left * left[:, partner]).sum(0)
        tangent = _tangent(squares, squares[partner], product, partner)
        cosine = jax.lax.rsqrt(1 + tangent**2)
        return tuple(cosine * (x - tangent * x[:, partner]) for x in (left, right))

    start = matrix, jnp.eye(count, dtype=matrix.dtype)
    left, right = jax.lax.fori_loop(0, _SWEEPS * len(partners), turn, start)
    return jnp.sqrt((left * left).sum(0)), right


def _tangent(mine, others, product, partner):
    """Of the angle by which each column is turned away from its partner; opposite for the two."""
    own = jnp.arange(len(mine))
    turns = (partner != own) & (product != 0)
    zeta = (others - mine) / jnp.where(turns, 2 * product, 1.0)
    sign = jnp.where(zeta == 0, jnp.where(own < partner, 1.0, -1.0), jnp.sign(zeta))
    return jnp.where(turns, sign / (jnp.abs(zeta) + jnp.sqrt(1 + zeta**2)), 0.0)


def _rounds(count: int) -> np.ndarray:
    """i[rounds count]: in each round every column's partner (itself: none); all pairs meet once."""
    even = count + count % 2
    ring = list(range(even))
    rounds = []
    for _ in range(even - 1):
        partner = np.arange(even)
        for a, b in zip(ring[: even // 2], reversed(ring[even // 2 :]), strict=True):
            partner[a], partner[b] = b, a
        partner = partner[:count]
        rounds.append(np.where(partner < count, partner, np.arange(count)))
        ring = [ring[0], ring[-1], *ring[1:-1]]
    return np.stack(rounds)
