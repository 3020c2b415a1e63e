"""GradDrop: where the groups disagree in sign, one sign is kept by chance."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unified_fm.optim.merge.base import Groups, Merge, divide, new_key, next_key, total


class State(NamedTuple):
    """The key of the next draw."""

    key: jax.Array  # u32[2]


def merge(*, groups: Sequence[str], shared: str = ".*", leak: float = 0.0, seed: int = 0) -> Merge:
    """Keeps, entry by entry, only the positive or only the negative gradients (arXiv 2010.06808).

    The positive ones are kept with probability `(1 + sum g / sum |g|) / 2`. The paper drops
    gradients of activations; this is its rule on the gradients of parameters.

    Args:
        groups, shared: see `base.Groups`; two groups or more.
        leak: share of the dropped gradients that passes all the same, in [0, 1]; 1 is the sum.
        seed: of the draws.

    Raises:
        ValueError: `leak` outside its range.
    """
    members = Groups(names=groups, shared=shared, merge="graddrop")
    if not 0 <= leak <= 1:
        raise ValueError(f"graddrop: leak must be in [0, 1], found {leak!r}")

    def init(params):
        members.check(params)
        return State(new_key(seed))

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        trees = members.ordered(updates)
        following, now = next_key(state.key)
        structure = jax.tree.structure(trees[0])
        keys = jax.tree.unflatten(structure, list(jax.random.split(now, structure.num_leaves)))

        def rule(*values):
            *gradients, key = values
            purity = 0.5 * (1 + divide(total(gradients), total(map(jnp.abs, gradients))))
            positive = purity > jax.random.uniform(key, purity.shape)
            return total(jnp.where((g > 0) == positive, g, leak * g) for g in gradients)

        return members.combine(rule, trees, keys), State(following)

    return Merge(init, update)
