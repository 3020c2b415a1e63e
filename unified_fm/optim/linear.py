"""Linear equations among a few groups: small enough to be eliminated step by step."""

import jax
import jax.numpy as jnp


def solve(matrix: jax.Array, right: jax.Array) -> jax.Array:
    """Solves `matrix x = right` for a small positive definite matrix, f[K].

    Gauss-Jordan elimination, written out: K is a handful, and a call of the device's LAPACK would
    cost more to compile and to start than the arithmetic. Where a pivot is zero (the matrix is
    singular) the unknown is 0, not NaN. The matrix f[K K] is symmetric, so no pivoting is needed.
    """
    table = jnp.concatenate([matrix, right[:, None]], axis=1)  # f[K K+1]
    for k in range(len(right)):
        pivot = table[k, k]
        row = jnp.where(pivot == 0, 0.0, table[k] / jnp.where(pivot == 0, 1.0, pivot))
        table = (table - jnp.outer(table[:, k], row)).at[k].set(row)
    return table[:, -1]
