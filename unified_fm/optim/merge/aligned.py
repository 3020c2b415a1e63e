"""Aligned-MTL: all singular values of the stacked gradients made equal to the smallest."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from unified_fm.optim import jacobi
from unified_fm.optim.merge.base import Groups, Merge, divide, weighted


def merge(*, groups: Sequence[str], shared: str = ".*") -> Merge:
    """Weights `sqrt(lambda_min) G^(-1/2) 1` (Senushkin et al., CVPR 2023), equal preferences.

    Two groups use the closed form of the 2 x 2 root, more an eigendecomposition. Directions that
    the gradients do not span, to rounding, are left out, as published: parallel gradients are then
    summed, and a group without a gradient takes no part. What counts as rounding is judged on the
    cosines, so a short gradient is not taken for a missing one.

    Args:
        groups, shared: see `base.Groups`; two groups or more.
    """
    members = Groups(names=groups, shared=shared, merge="aligned")

    def weigh(gram, state, losses):
        del losses
        return weights(gram.dots[0])[None], state

    return weighted(members, weigh)


def weights(gram: jax.Array) -> jax.Array:
    """f32[K]."""
    return _of_two(gram) if len(gram) == 2 else _of_many(gram)


def _of_two(gram: jax.Array) -> jax.Array:
    """f32[2]; with s = sqrt(det) and t = sqrt(trace + 2 s), G^(-1/2) = adj(G + s) / (s t).

    In lengths x, y and the angle's cosine c and sine: of det = (x y sine)^2 no digit is lost
    however different the lengths are.
    """
    x, y, c = *_lengths(gram), _cosines(gram)[0, 1]
    sine = jnp.sqrt(jnp.maximum(1 - c * c, 0.0))
    trace = x * x + y * y
    largest = (trace + jnp.sqrt((x * x - y * y) ** 2 + (2 * x * y * c) ** 2)) / 2
    t = jnp.sqrt(trace + 2 * x * y * sine)
    # sqrt(lambda_min) / s is 1 / sqrt(lambda_max): nothing small is divided by.
    each = jnp.stack([y * (y + x * (sine - c)), x * (x + y * (sine - c))])
    full = divide(each, t * jnp.sqrt(largest))
    # One direction only: (G / lambda_max) projects on it.
    single = divide(jnp.stack([x * (x + y * c), y * (y + x * c)]), largest)
    one = (1 - jnp.abs(c) <= 4 * _tolerance(gram)) | (x == 0) | (y == 0)
    return jnp.where(one, single, full)


def _of_many(gram: jax.Array) -> jax.Array:
    """f32[K]. How many directions there are is read off the cosines, which have no lengths."""
    lengths, cosines = _lengths(gram), _cosines(gram)
    values, vectors = jnp.linalg.eigh(cosines)
    used = values > _tolerance(gram) * values[-1]
    root = jnp.where(used, jnp.sqrt(jnp.maximum(values, 0.0)), 0.0)[:, None] * vectors.T
    # root' root = cosines, so the columns of root * lengths have the dot products of the gradients.
    singular, right = jacobi.columns(root * lengths)
    rank = used.sum() - (lengths == 0).sum()
    used = (singular > singular[:, None]).sum(axis=1) < rank
    smallest = jnp.min(jnp.where(used, singular, jnp.inf))
    scale = jnp.where(used, divide(smallest, singular), 0.0)
    return right @ (scale * right.sum(0))


def _lengths(gram: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.diag(gram))


def _cosines(gram: jax.Array) -> jax.Array:
    """Cosines f32[K K] between the gradients; one that is missing is orthogonal to all others."""
    inverse = divide(1.0, _lengths(gram))
    cosines = jnp.clip(gram * jnp.outer(inverse, inverse), -1.0, 1.0)
    return jnp.where(jnp.eye(len(gram), dtype=bool), 1.0, cosines)


def _tolerance(gram: jax.Array) -> Any:
    """Below this share of the largest, an eigenvalue of the cosines is rounding."""
    return len(gram) * jnp.finfo(gram.dtype).eps
