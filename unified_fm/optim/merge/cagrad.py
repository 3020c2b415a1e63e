"""CAGrad: near the mean gradient, the direction that helps the worst-off group most."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unified_fm import choices
from unified_fm.optim import simplex
from unified_fm.optim.merge.base import Groups, Merge, divide, weighted

_RESCALE = ("quadratic", "linear", "none")


def merge(
    *,
    groups: Sequence[str],
    shared: str = ".*",
    conflict: float = 0.5,
    rescale: str = "quadratic",
    reduction: str = "mean",
) -> Merge:
    """Maximises the smallest progress of any group within a ball around the mean (2110.14048).

    With g0 the mean, it minimises `g_w . g0 + c |g0| |g_w|` over weights w on the simplex and takes
    `g0 + c |g0| g_w / |g_w|`. Each face of the simplex has a closed-form minimum (a quadratic
    equation for the multiplier), so the result is exact for two to eight groups.

    Args:
        groups, shared: see `base.Groups`; two to eight groups.
        conflict: c, the radius of the ball in units of |g0|, in [0, 1); 0 is the mean. 0.5 is the
            default of LibMTL, 0.4 of the authors' later code.
        rescale: divide by 1 + c^2 ("quadratic"), by 1 + c ("linear"), or not at all ("none").
        reduction: "mean", or "sum" (times the number of groups, the scale of a sum).

    Raises:
        ValueError: a value outside its range.
    """
    members = Groups(names=groups, shared=shared, merge="cagrad", most=simplex.MOST)
    if not 0 <= conflict < 1:
        raise ValueError(f"cagrad: conflict must be in [0, 1), found {conflict!r}")
    choices.check("cagrad: rescale", rescale, _RESCALE)
    scale = (
        len(members.names) if choices.check("reduction", reduction, ("mean", "sum")) == "sum" else 1
    )
    scale /= {"quadratic": 1 + conflict**2, "linear": 1 + conflict, "none": 1}[rescale]

    def weigh(gram, state, losses):
        del losses
        return scale * weights(gram.dots[0], conflict)[None], state

    return weighted(members, weigh)


def weights(gram: jax.Array, conflict: float) -> jax.Array:
    """f32[K]: 1/K for the mean, and the share of the worst-off groups."""
    count = len(gram)
    mean = jnp.full(count, 1.0 / count)
    largest = jnp.max(jnp.diag(gram))
    gram = gram / jnp.where(largest > 0, largest, 1.0)  # the weights do not depend on the scale
    dots = gram @ mean  # g_i . g0
    radius = conflict * jnp.sqrt(jnp.maximum(mean @ dots, 0.0))

    def norm(w):
        return jnp.sqrt(jnp.maximum(w @ gram @ w, 0.0))

    def on_face(face):
        """The minimum where only this face's weights count: gram w ~ multiplier - dots."""
        p = simplex.solve_on_face(gram, face, jnp.ones(count))
        q = simplex.solve_on_face(gram, face, dots)
        p1, q1 = p.sum(), q.sum()
        root = q1**2 - p1 * (jnp.where(face, dots, 0.0) @ q - radius**2)
        multiplier = (q1 + jnp.sqrt(jnp.maximum(root, 0.0))) / p1
        return (multiplier * p - q) / (multiplier * p1 - q1)

    w = simplex.minimise(lambda w: w @ dots + radius * norm(w), on_face, count)
    return mean + w * divide(radius, norm(w))
