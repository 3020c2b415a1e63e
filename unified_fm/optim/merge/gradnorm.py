"""GradNorm: learnt weights that make the groups train at similar rates."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from unified_fm.optim.merge.base import Groups, Merge, divide, weighted


class State(NamedTuple):
    """The learnt logits of the weights, the first losses, the step and the state of Adam."""

    logits: jax.Array  # f32[K]
    first: jax.Array  # f32[K]
    count: jax.Array  # i32[]
    adam: optax.OptState


def merge(
    *,
    groups: Sequence[str],
    shared: str = ".*",
    alpha: float = 1.5,
    learning_rate: float = 0.025,
) -> Merge:
    """Learns weights w that even out `w_i |g_i|` (Chen et al., arXiv 1711.02257).

    It descends `sum of |w_i n_i - mean(w n) r_i^alpha|`, where r_i is the group's loss as a share
    of its first value, over the mean of those shares; the target counts as a constant. The
    weights are K softmax(logits), as in LibMTL: positive, and their sum stays K. The update needs
    `losses={group: scalar}`.

    Args:
        groups, shared: see `base.Groups`; two groups or more.
        alpha: how strongly a group that lags is favoured; 0 evens out the norms alone.
        learning_rate: of the logits, by Adam (our choice).
    """
    members = Groups(names=groups, shared=shared, merge="gradnorm")
    count = len(members.names)
    adam = optax.adam(learning_rate)

    def start(blocks):
        del blocks
        logits = jnp.zeros(count)
        return State(logits, jnp.ones(count), jnp.zeros([], jnp.int32), adam.init(logits))

    def weigh(gram, state, losses):
        norms = jnp.sqrt(jnp.diag(gram.dots[0])) * gram.unit[0]
        first = jnp.where(state.count == 0, losses, state.first)
        weights = count * jax.nn.softmax(state.logits)
        gradient = slope(weights, norms, divide(losses, first), alpha)
        updates, inner = adam.update(gradient, state.adam)
        logits = state.logits + updates
        number = cast(jax.Array, optax.safe_increment(state.count))
        return weights[None], State(logits, first, number, inner)

    return weighted(members, weigh, start=start, uses_losses=True)


def slope(weights: jax.Array, norms: jax.Array, share: jax.Array, alpha: float) -> jax.Array:
    """The gradient f32[K] of GradNorm's loss in the logits."""
    rate = divide(share, share.mean())
    target = (weights * norms).mean() * rate**alpha
    by_weight = jnp.sign(weights * norms - target) * norms
    # Through w = K softmax(logits): dw_i / dlogit_j = w_i (1[i = j] - w_j / K).
    return weights * (by_weight - (by_weight * weights).sum() / len(weights))
