"""Alternating descent: the shared parameters follow one group per step."""

from collections.abc import Sequence
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from unified_fm.optim.merge.base import Groups, Merge, weighted


class State(NamedTuple):
    """How many updates were made."""

    count: jax.Array  # i32[]


def merge(*, groups: Sequence[str], shared: str = ".*", order: Sequence[str] = ()) -> Merge:
    """Gives the shared parameters the gradient of one group at a time.

    As in Akbari et al. 2023 (arXiv 2305.06324), with the optimizer's moments shared by all groups.
    With the default `shared` the parameters outside the group's turn stand still.

    Args:
        groups, shared: see `base.Groups`; any number of groups.
        order: one group per step, repeated (`("image", "image", "text")`); empty: each in turn.

    Raises:
        ValueError: `order` names a group that does not exist, or leaves one out.
    """
    members = Groups(names=groups, shared=shared, merge="alternate", least=1)
    order = tuple(order) or members.names
    if set(order) != set(members.names):
        raise ValueError(
            f"alternate: order has the groups {sorted(set(order))}, "
            f"the run has {sorted(members.names)}"
        )
    turns = [members.names.index(name) for name in order]

    def weigh(gram, state, losses):
        del gram, losses
        turn = jnp.asarray(turns)[state.count % len(turns)]
        weights = jax.nn.one_hot(turn, len(members.names))[None]  # f32[1 K]
        return weights, State(cast(jax.Array, optax.safe_increment(state.count)))

    return weighted(members, weigh, start=lambda blocks: State(jnp.zeros([], jnp.int32)))
