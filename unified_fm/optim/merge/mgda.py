"""MGDA: the shortest gradient in the convex hull of the groups' gradients."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unified_fm import choices
from unified_fm.optim import simplex
from unified_fm.optim.merge.base import Groups, Merge, divide, weighted

_NORMALISE = ("none", "l2", "loss", "loss+")


def merge(
    *,
    groups: Sequence[str],
    shared: str = ".*",
    normalise: str = "none",
    reduction: str = "mean",
) -> Merge:
    """Weights the groups so that the norm of the weighted mean is smallest (arXiv 1810.04650).

    The direction lowers every group's loss, or is zero where that is impossible: so it is zero
    too where one group has no gradient. Two groups use the closed form, three to eight an exact
    search over the faces of the simplex.

    Args:
        groups, shared: see `base.Groups`; two to eight groups.
        normalise: what each gradient is divided by while the weights are sought: "none", "l2" (its
            norm), "loss" (the group's loss) or "loss+" (both). The weights then apply to the
            gradients as they are.
        reduction: "mean" (weights sum to 1) or "sum" (to the number of groups, the scale of a sum).
    """
    members = Groups(names=groups, shared=shared, merge="mgda", most=simplex.MOST)
    choices.check("mgda: normalise", normalise, _NORMALISE)
    scale = (
        len(members.names) if choices.check("reduction", reduction, ("mean", "sum")) == "sum" else 1
    )
    uses_losses = normalise in ("loss", "loss+")

    def weigh(gram, state, losses):
        gram = gram.dots[0]  # the weights do not depend on the unit
        size = jnp.ones(len(gram))
        if normalise in ("l2", "loss+"):
            size = jnp.sqrt(jnp.diag(gram))
        if uses_losses:
            size = size * losses
        inverse = divide(1.0, size)
        return scale * weights(gram * jnp.outer(inverse, inverse))[None], state

    return weighted(members, weigh, uses_losses=uses_losses)


def weights(gram: jax.Array) -> jax.Array:
    """Weights f32[K] on the simplex that minimise `w gram w`."""
    if len(gram) == 2:
        gap = gram[0, 0] - 2 * gram[0, 1] + gram[1, 1]  # |g1 - g2|^2
        # Equal gradients leave the weights open: half and half.
        first = jnp.where(gap > 0, divide(gram[1, 1] - gram[0, 1], gap), 0.5)
        first = jnp.clip(first, 0.0, 1.0)
        return jnp.stack([first, 1.0 - first])
    gram = gram / jnp.maximum(jnp.max(jnp.diag(gram)), jnp.finfo(gram.dtype).tiny)

    def on_face(face):
        return simplex.solve_on_face(gram, face, jnp.ones(len(gram)))

    return simplex.minimise(lambda w: w @ gram @ w, on_face, len(gram))
