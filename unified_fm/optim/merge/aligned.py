"""Aligned-MTL: all singular values of the stacked gradients made equal to the smallest."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from unified_fm.optim.merge.base import Groups, divide, weighted


def merge(*, groups: Sequence[str], shared: str = ".*") -> optax.GradientTransformationExtraArgs:
    """Weights `sqrt(lambda_min) G^(-1/2) 1` (Senushkin et al., CVPR 2023), equal preferences.

    Two groups use the closed form of the 2 x 2 root, more an eigendecomposition. Directions whose
    eigenvalue is zero to rounding are left out, as published: parallel gradients are then summed,
    and a group without a gradient takes no part.

    Args:
        groups: names of the gradient groups, two or more.
        shared: regex of the shared parameters; on the others the gradients are summed.
    """
    members = Groups(names=groups, shared=shared, merge="aligned")

    def weigh(gram, state, losses):
        del losses
        return weights(gram[0])[None], state

    return weighted(members, weigh)


def weights(gram: jax.Array) -> jax.Array:
    """f32[K]."""
    return _of_two(gram) if len(gram) == 2 else _of_many(gram)


def _of_two(gram: jax.Array) -> jax.Array:
    """f32[2]; with s = sqrt(det) and t = sqrt(trace + 2 s), G^(-1/2) = adj(G + s) / (s t)."""
    a, b, c = gram[0, 0], gram[1, 1], gram[0, 1]
    trace, det = a + b, jnp.maximum(a * b - c * c, 0.0)
    largest = (trace + jnp.sqrt((a - b) ** 2 + 4 * c * c)) / 2
    s = jnp.sqrt(det)
    t = jnp.sqrt(trace + 2 * s)
    # sqrt(lambda_min) / s is 1 / sqrt(lambda_max): nothing small is divided by.
    full = divide(jnp.stack([b + s - c, a + s - c]), t * jnp.sqrt(largest))
    # One direction only: (G / lambda_max) projects on it.
    single = divide(jnp.stack([a + c, b + c]), largest)
    return jnp.where(det <= 2 * _tolerance(gram) * largest**2, single, full)


def _of_many(gram: jax.Array) -> jax.Array:
    """f32[K]."""
    values, vectors = jnp.linalg.eigh(gram)
    used = values > _tolerance(gram) * values[-1]
    smallest = jnp.min(jnp.where(used, values, values[-1]))
    scale = jnp.where(used, jnp.sqrt(divide(smallest, jnp.where(used, values, 1.0))), 0.0)
    return vectors @ (scale * vectors.sum(0))


def _tolerance(gram: jax.Array) -> jax.Array:
    """Below this share of the largest, an eigenvalue is rounding."""
    return len(gram) * jnp.finfo(gram.dtype).eps
