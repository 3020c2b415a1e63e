"""PCGrad: each gradient loses its component against the others."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unified_fm import choices
from unified_fm.optim.merge.base import Groups, Merge, divide, new_key, next_key, weighted


class State(NamedTuple):
    """The key of the next random order."""

    key: jax.Array  # u32[2]


def merge(
    *,
    groups: Sequence[str],
    shared: str = ".*",
    scope: str = "model",
    reduction: str = "sum",
    seed: int = 0,
) -> Merge:
    """Projects every gradient on the normal plane of each gradient it conflicts with (2001.06782).

    With two groups the order cannot matter; with more it is drawn anew at every update.

    Args:
        groups, shared: see `base.Groups`; two groups or more.
        scope: one projection over the "model" (as published), or one per "layer" or "tensor".
        reduction: "sum" (as published) or "mean" of the projected gradients.
        seed: of the random order.
    """
    members = Groups(names=groups, shared=shared, merge="pcgrad")
    count = len(members.names)
    scale = 1 / count if choices.check("reduction", reduction, ("sum", "mean")) == "mean" else 1.0

    def weigh(gram, state, losses):
        del losses
        following, now = next_key(state.key)
        orders = random_orders(now, len(gram.dots), count)
        return scale * jax.vmap(_weights)(gram.dots, orders), State(following)

    return weighted(members, weigh, start=lambda blocks: State(new_key(seed)), scope=scope)


def random_orders(key: jax.Array, blocks: int, count: int) -> jax.Array:
    """In which order each group meets the others, i32[blocks count count]."""
    if count == 2:  # only one other to meet
        return jnp.broadcast_to(jnp.arange(count), (blocks, count, count))
    return jnp.argsort(jax.random.uniform(key, (blocks, count, count)))


def pairwise(
    gram: jax.Array,
    order: jax.Array,
    edit: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
) -> jax.Array:
    """Edits each group's gradient against the others, one by one, in coefficients alone.

    Row i of the f32[K K] result writes the edited gradient i in terms of the originals. Rows do not
    affect each other, so all are edited at once.

    Args:
        gram: dot products of the originals, f32[K K].
        order: order[i] lists the groups that gradient i meets (itself is skipped), i32[K K].
        edit: `(dot f32[K], norm^2 f32[K] of the edited, other i32[K]) -> factor f32[K]` of the
            other gradient to add.
    """
    rows = jnp.arange(len(gram))
    edited = jnp.eye(len(gram), dtype=gram.dtype)
    for other in order.T:
        dots = edited @ gram  # edited gradient i . original j
        norms = jnp.sum(dots * edited, axis=1)
        factor = jnp.where(other == rows, 0.0, edit(dots[rows, other], norms, other))
        edited = edited.at[rows, other].add(factor)
    return edited


def _weights(gram: jax.Array, order: jax.Array) -> jax.Array:
    """f32[K]: the sum of the projected gradients in terms of the originals."""
    squares = jnp.diag(gram)

    def edit(dot, norm, other):
        del norm
        return -divide(jnp.minimum(dot, 0.0), squares[other])

    return pairwise(gram, order, edit).sum(0)
