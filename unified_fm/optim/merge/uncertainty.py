"""Uncertainty weighting: learnt weights, as if each loss came with its own noise."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from unified_fm.optim.merge.base import Groups, Merge, weighted


class State(NamedTuple):
    """The learnt log-variances and the state of their optimizer (Adam)."""

    log_variance: jax.Array  # f32[K]
    adam: optax.OptState


def merge(
    *,
    groups: Sequence[str],
    shared: str = ".*",
    learning_rate: float = 1e-3,
    initial: float = 0.0,
) -> Merge:
    """Descends `sum of exp(-s_i) L_i / 2 + s_i / 2` also in s (Kendall et al., arXiv 1705.07115).

    The gradient of group i has the weight `exp(-s_i) / 2`; s_i tends to `log L_i`. The update needs
    `losses={group: scalar}`.

    Args:
        groups, shared: see `base.Groups`; any number of groups.
        learning_rate: of s, by Adam (our choice; published codes use the model's own optimizer).
        initial: first value of every s; 0 as in the code of Nash-MTL, LibMTL has -0.5.
    """
    members = Groups(names=groups, shared=shared, merge="uncertainty", least=1)
    adam = optax.adam(learning_rate)

    def start(blocks):
        del blocks
        s = jnp.full(len(members.names), initial, jnp.float32)
        return State(s, adam.init(s))

    def weigh(gram, state, losses):
        del gram
        weights = 0.5 * jnp.exp(-state.log_variance)
        slope = 0.5 - weights * losses  # of the whole loss in s
        updates, inner = adam.update(slope, state.adam)
        return weights[None], State(state.log_variance + updates, inner)

    return weighted(members, weigh, start=start, uses_losses=True)
