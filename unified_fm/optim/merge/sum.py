"""The plain merge: every parameter gets the sum of the groups' gradients."""

import functools
from collections.abc import Sequence

import jax
import optax

from unified_fm.optim.merge.base import Merge


def merge(*, groups: Sequence[str], shared: str = ".*") -> Merge:
    """Sums the gradient trees in the order of the groups; keeps no state.

    `shared` is accepted for the common interface: a sum treats all parameters alike.
    """
    del shared
    groups = tuple(groups)

    def init(params):
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        trees = [updates[group] for group in groups]
        return functools.reduce(lambda a, b: jax.tree.map(lambda x, y: x + y, a, b), trees), state

    return Merge(init, update)
