"""Exact minima over the weights of a few groups, by trying every subset of them.

The weights of K groups form a simplex: K numbers >= 0 that sum to 1. A convex function's minimum
lies inside one of its faces, and a face is a subset of the groups. For MGDA and CAGrad the minimum
inside a face has a closed form, so with few groups it is exact, and needs no loop on the device, to
compute one candidate for each of the 2^K - 1 faces and keep the best. Candidates are pulled back
into the simplex before they are compared: a face whose formula fails can lose, never mislead.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm.optim import linear

MOST = 8  # groups; 255 faces


def faces(count: int) -> np.ndarray:
    """Lists all non-empty subsets of `count` groups, bool[2^count - 1, count]."""
    numbers = np.arange(1, 2**count)[:, None]
    return (numbers >> np.arange(count)) & 1 == 1


def solve_on_face(gram: jax.Array, face: jax.Array, right: jax.Array) -> jax.Array:
    """Solves `gram x = right` among the groups of `face`; 0 for the others, f[K]."""
    both = face[:, None] & face[None, :]
    inside = jnp.where(both, gram, jnp.eye(len(face), dtype=gram.dtype))
    return jnp.where(face, linear.solve(inside, jnp.where(face, right, 0.0)), 0.0)


def minimise(
    objective: Callable[[jax.Array], jax.Array],
    on_face: Callable[[jax.Array], jax.Array],
    count: int,
) -> jax.Array:
    """Returns the weights f[count] with the lowest `objective`.

    Args:
        objective: weights f[K] -> scalar, convex.
        on_face: face bool[K] -> the weights at the minimum inside it; what is not finite or lies
            outside the simplex is clipped, so a face with no solution may return anything.
        count: the number of groups K.
    """

    def candidate(face):
        weights = jnp.nan_to_num(on_face(face), nan=0.0, posinf=0.0, neginf=0.0)
        weights = jnp.where(face, jnp.maximum(weights, 0.0), 0.0)
        size = weights.sum()
        even = face / face.sum()
        return jnp.where(size > 0, weights / jnp.where(size > 0, size, 1.0), even)

    candidates = jax.vmap(candidate)(jnp.asarray(faces(count)))  # f[faces K]
    return candidates[jnp.argmin(jax.vmap(objective)(candidates))]
