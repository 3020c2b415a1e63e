"""AND-mask: only the entries on whose sign the groups agree are moved."""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from unified_fm.optim.merge.base import Groups, Merge, divide, total


def merge(*, groups: Sequence[str], shared: str = ".*", threshold: float = 1.0) -> Merge:
    """The mean gradient where `|mean of signs| >= threshold`, 0 elsewhere (arXiv 2009.00329).

    Each tensor is divided by the share of its entries that is kept, as in the code of DomainBed.

    Args:
        groups, shared: see `base.Groups`; two groups or more.
        threshold: of the agreement, in [0, 1]; 1 asks for all groups, 0 is the mean.

    Raises:
        ValueError: `threshold` outside its range.
    """
    members = Groups(names=groups, shared=shared, merge="and_mask")
    if not 0 <= threshold <= 1:
        raise ValueError(f"and_mask: threshold must be in [0, 1], found {threshold!r}")

    def init(params):
        members.check(params)
        return optax.EmptyState()

    def rule(*gradients):
        count = len(gradients)
        # The sum of signs is a whole number: compared without the rounding of a mean.
        agreed = jnp.abs(total(map(jnp.sign, gradients))) >= threshold * count - 1e-6
        kept = jnp.mean(agreed, dtype=jnp.float32)
        return divide(jnp.where(agreed, total(gradients) / count, 0.0), kept)

    def update(updates, state, params=None, **extra_args):
        del params, extra_args
        return members.combine(rule, members.ordered(updates)), state

    return Merge(init, update)
