"""Norms of whole trees, and whether they are finite, so that the compiler has little to do with it.

A base model has 759 parameters, and the compiler's time grows with the square of what there is to
run: one sum for each parameter, and one over all of these sums, is the least.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unified_fm.optim.settled import settled

_TOGETHER = 64


def norm(tree: Any) -> jax.Array:
    """The global norm f32[] of a tree; 0 where it has no leaves."""
    return _root([jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)])


def norm_if_finite(tree: Any, others: Sequence[Any]) -> jax.Array:
    """The global norm f32[] of a tree; NaN where one of the others is not finite.

    Args:
        tree: of numbers.
        others: trees of the same structure and shapes, some leaves of which may be `MaskedNode`.
            Nothing times a number is nothing, and nothing times infinity is NaN: so the sums that
            are made in any case find it, and no number of the others has a pass of its own.
    """
    leaves = [jax.tree.leaves(each, is_leaf=_is_masked) for each in (tree, *others)]
    sums = [
        jnp.sum(jnp.square(x) + sum(0 * other for other in beside if not _is_masked(other)))
        for x, *beside in zip(*leaves, strict=True)
    ]
    return _root(sums)


def all_finite(tree: Any) -> jax.Array:
    """bool[], whether all numbers of a tree are finite."""
    floats = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    found = [jnp.isfinite(x).all() for x in floats] or [jnp.array(True)]
    while len(found) > 1:  # in groups: the time to fuse n of them grows with n^2
        groups = [found[start : start + _TOGETHER] for start in range(0, len(found), _TOGETHER)]
        found = [settled(jnp.stack(group).all()) for group in groups]
    return found[0]


def like(params: Any, state: Any) -> tuple[list[Any], list[Any]]:
    """The trees in a state that are like the parameters (moments, averages), and all else of it.

    A tree that has `MaskedNode` in place of some leaves is like them, too, if it has floats.
    """
    structure = jax.tree.structure(params)

    def is_like(node):
        if not isinstance(node, dict) or jax.tree.structure(node, _is_masked) != structure:
            return False
        return all(jnp.issubdtype(x.dtype, jnp.inexact) for x in jax.tree.leaves(node))

    parts = jax.tree.leaves(state, is_leaf=is_like)
    return [x for x in parts if is_like(x)], [x for x in parts if not is_like(x)]


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _root(sums: list[jax.Array]) -> jax.Array:
    return jnp.sqrt(jnp.stack(sums).sum()) if sums else jnp.zeros((), jnp.float32)
