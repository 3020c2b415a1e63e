"""Nash-MTL: the groups bargain over the direction of the step."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unified_fm.optim import linear
from unified_fm.optim.merge.base import Groups, Merge, divide, weighted

_STEPS = 40  # of damped Newton; it converges quadratically once close
_LEAST = 1e-6  # of 1 + cosine: opposite gradients have no bargain


def merge(*, groups: Sequence[str], shared: str = ".*") -> Merge:
    """The bargaining solution `G a = 1 / a` of Navon et al. 2022 (arXiv 2202.01017).

    For two groups `(u1 + u2) / sqrt(1 + cos)`, whose norm is always sqrt(2), so no solver is
    needed; for more, damped Newton on the convex function `a G a / 2 - sum log a`. The published
    code also limits the norm to 1: put `optax.clip_by_global_norm` behind. A group without a
    gradient takes no part.

    Args:
        groups, shared: see `base.Groups`; two groups or more.
    """
    members = Groups(names=groups, shared=shared, merge="nash")

    def weigh(gram, state, losses):
        del losses
        return weights(gram.dots[0])[None] / gram.unit[0], state

    return weighted(members, weigh)


def weights(gram: jax.Array) -> jax.Array:
    """f32[K] > 0 (0 for a group without a gradient)."""
    inverse = divide(1.0, jnp.sqrt(jnp.diag(gram)))
    cosines = gram * jnp.outer(inverse, inverse)
    if len(gram) == 2:
        return inverse * jax.lax.rsqrt(jnp.maximum(1.0 + cosines[0, 1], _LEAST))
    cosines = jnp.where(jnp.eye(len(gram), dtype=bool), 1.0 + _LEAST, cosines)

    def newton(_, b):
        slope = cosines @ b - 1 / b
        curvature = cosines + jnp.diag(1 / b**2)
        step = linear.solve(curvature, slope)
        decrement = jnp.sqrt(jnp.maximum(slope @ step, 0.0))
        # The function is self-concordant: this length keeps b positive and cannot overshoot.
        return b - step / (1 + decrement)

    return inverse * jax.lax.fori_loop(0, _STEPS, newton, jnp.ones(len(gram)))
