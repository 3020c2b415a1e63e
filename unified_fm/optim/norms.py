"""Norms of whole trees, made so that the compiler has little to do with them.

A base model has 759 parameters, and the compiler's time grows with the square of what there is to
run: one sum for each parameter, and one over all of these sums, is the least.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def norm(tree: Any) -> jax.Array:
    """The global norm f32[] of a tree; 0 where it has no leaves."""
    return _root([jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)])


def norm_if_finite(tree: Any, others: Sequence[Any]) -> jax.Array:
    """The global norm f32[] of a tree; NaN where one of the others is not finite.

    Args:
        tree: of numbers.
        others: trees of the same structure and shapes. Nothing times a number is nothing, and
            nothing times infinity is NaN: so the sums that are made in any case find it, and no
            number of the others has a pass of its own.
    """
    sums = [
        jnp.sum(jnp.square(x) + sum(0 * other for other in beside))
        for x, *beside in zip(*map(jax.tree.leaves, (tree, *others)), strict=True)
    ]
    return _root(sums)


def _root(sums: list[jax.Array]) -> jax.Array:
    return jnp.sqrt(jnp.stack(sums).sum()) if sums else jnp.zeros((), jnp.float32)
