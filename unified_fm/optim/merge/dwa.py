"""Dynamic weight averaging: a group whose loss falls slowly gets more weight."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from unified_fm.optim.merge.base import Groups, Merge, divide, weighted


class State(NamedTuple):
    """The last losses, newest at the end, and how many there were."""

    losses: jax.Array  # f32[2 window, K]
    count: jax.Array  # i32[]


def merge(
    *,
    groups: Sequence[str],
    shared: str = ".*",
    temperature: float = 2.0,
    window: int = 25,
) -> Merge:
    """Weights `K softmax(r / T)`, r a loss's mean over the last window by that of the one before.

    From Liu et al. (arXiv 1803.10704), over sliding windows of updates as in the code of Nash-MTL.
    Until two windows are full all weights are 1. The update needs `losses={group: scalar}`.

    Args:
        groups, shared: see `base.Groups`; any number of groups.
        temperature: T; higher is more even.
        window: updates in one mean.

    Raises:
        ValueError: a temperature or window that is not positive.
    """
    members = Groups(names=groups, shared=shared, merge="dwa", least=1)
    count = len(members.names)
    if temperature <= 0 or window < 1:
        raise ValueError(
            f"dwa: temperature and window must be positive, found {temperature} and {window}"
        )

    def start(blocks):
        del blocks
        return State(jnp.zeros([2 * window, count]), jnp.zeros([], jnp.int32))

    def weigh(gram, state, losses):
        del gram
        seen = jnp.concatenate([state.losses[1:], losses[None]])
        number = cast(jax.Array, optax.safe_increment(state.count))
        rate = divide(seen[window:].mean(0), seen[:window].mean(0))
        weights = count * jax.nn.softmax(rate / temperature)
        weights = jnp.where(number >= 2 * window, weights, 1.0)
        return weights[None], State(seen, number)

    return weighted(members, weigh, start=start, uses_losses=True)
