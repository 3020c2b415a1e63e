"""A merge that keeps a random part of the kernels as it started: has the trunk too little room?

An arm of one stream gets half a trunk by it, as joint training gives each stream half where the
entries are divided. What is frozen has no gradient, so it takes no part in the clipping, and its
update is 0, so it does not decay either.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from unified_fm.optim import masks
from unified_fm.optim.merge.base import Groups, Merge, new_key, next_key, total


class State(NamedTuple):
    """Which entries are trained.

    Attributes:
        trained: u8, 1 where an entry is; a tree as the parameters, `MaskedNode` where all are.
    """

    trained: Any


def merge(*, groups: Sequence[str], shared: str, share: float = 0.5, seed: int = 0) -> Merge:
    """Sums the groups' gradients, and freezes entries that are drawn once.

    Args:
        groups: see `base.Groups`; one or more.
        shared: regex of the parameters of which a part is frozen (`encoder/.*/kernel`).
        share: of the entries of each tensor, rounded down, that is frozen.
        seed: of the draw.

    Raises:
        ValueError: `shared` matches no parameter, or `share` is not in 0 to 1.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"half: share is {share!r}; it must be in [0, 1]")
    members = Groups(names=groups, shared=shared, merge="half", least=1)

    def init(params):
        members.check(params)
        return State(_drawn(params, members.is_shared(params), share, seed))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        summed = jax.tree.map(lambda *gradients: total(gradients), *members.ordered(updates))
        return _held(summed, state), state

    def finish(updates, state, params=None):
        del params
        return _held(updates, state), state

    made = Merge(init, update)
    made.after = optax.GradientTransformation(init, finish)
    return made


def _drawn(params: Any, shared: Any, share: float, seed: int) -> Any:
    leaves, structure = jax.tree.flatten(params)
    _, key = next_key(new_key(seed))
    keys = jax.random.split(key, len(leaves))

    def one(leaf, used, own_key):
        if not used:
            return optax.MaskedNode()
        score = jax.random.uniform(own_key, leaf.shape)
        return masks.next_mask(
            jnp.ones(leaf.shape, jnp.uint8), score, jnp.int32(int(share * leaf.size))
        )

    drawn = [one(*each) for each in zip(leaves, jax.tree.leaves(shared), keys, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def _held(updates: Any, state: State) -> Any:
    def leaf(update, trained):
        if isinstance(trained, optax.MaskedNode):
            return update
        return jnp.where(trained == 1, update, 0)

    return jax.tree.map(leaf, updates, state.trained)
