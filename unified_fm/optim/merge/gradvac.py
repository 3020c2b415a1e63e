"""GradVac: gradients are turned towards each other until their cosine reaches its running mean."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unified_fm.optim.merge.base import Groups, Merge, divide, new_key, next_key, weighted
from unified_fm.optim.merge.pcgrad import pairwise, random_orders

_MOST = 1 - 1e-6  # of a target cosine: at 1 the factor would be infinite


class State(NamedTuple):
    """The target cosines and the key of the next random order."""

    target: jax.Array  # f32[blocks K K]
    key: jax.Array  # u32[2]


def merge(
    *,
    groups: Sequence[str],
    shared: str = ".*",
    scope: str = "model",
    rate: float = 0.5,
    seed: int = 0,
) -> Merge:
    """Gradient vaccine (arXiv 2010.05874): each pair's cosine is lifted to its moving average.

    Args:
        groups, shared: see `base.Groups`; two groups or more.
        scope: one target for the "model", or one per "layer" or "tensor".
        rate: share of the newest cosine in the moving average, in (0, 1]; 0.5 as in LibMTL.
        seed: of the random order in which three or more groups meet.

    Raises:
        ValueError: `rate` outside its range.
    """
    members = Groups(names=groups, shared=shared, merge="gradvac")
    count = len(members.names)
    if not 0 < rate <= 1:
        raise ValueError(f"gradvac: rate must be in (0, 1], found {rate!r}")

    def start(blocks):
        return State(jnp.zeros([blocks, count, count]), new_key(seed))

    def weigh(gram, state, losses):
        del losses
        following, now = next_key(state.key)
        orders = random_orders(now, len(gram.dots), count)
        one = functools.partial(_weights, rate=rate)
        weights, target = jax.vmap(one)(gram.dots, orders, state.target)
        return weights, State(target, following)

    return weighted(members, weigh, start=start, scope=scope)


def _weights(
    gram: jax.Array, order: jax.Array, target: jax.Array, rate: float
) -> tuple[jax.Array, jax.Array]:
    """The weights f32[K] of the sum, and the moved targets f32[K K]."""
    norms = jnp.sqrt(jnp.diag(gram))
    rows = jnp.arange(len(gram))
    seen = []  # (other, cosine) of each meeting

    def edit(dot, square, other):
        norm = jnp.sqrt(jnp.maximum(square, 0.0))
        cosine = jnp.clip(divide(dot, norm * norms[other]), -1.0, 1.0)
        seen.append((other, cosine))
        wanted = jnp.clip(target[rows, other], -_MOST, _MOST)
        sine, wanted_sine = jnp.sqrt(1 - cosine**2), jnp.sqrt(1 - wanted**2)
        factor = norm * (wanted * sine - cosine * wanted_sine)
        factor = divide(factor, norms[other] * wanted_sine)
        return jnp.where(cosine < wanted, factor, 0.0)

    edited = pairwise(gram, order, edit)
    for other, cosine in seen:
        # A group does not meet itself, and one without a gradient has no cosine to learn from.
        real = (other != rows) & (norms > 0) & (norms[other] > 0)
        step = jnp.where(real, rate * (cosine - target[rows, other]), 0.0)
        target = target.at[rows, other].add(step)
    return edited.sum(0), target
