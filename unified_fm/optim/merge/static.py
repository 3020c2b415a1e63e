"""Static weights: the groups' gradients with fixed factors."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp

from unified_fm.optim.merge.base import Groups, Merge, weighted


def merge(*, groups: Sequence[str], weights: Mapping[str, float], shared: str = ".*") -> Merge:
    """Weights each group's gradient of the shared parameters by a constant.

    The baseline to beat: Kurin et al. 2022 and Xin et al. 2022 find that tuned static weights are
    hard to improve on.

    Args:
        groups, shared: see `base.Groups`; any number of groups.
        weights: `{group: factor}`, one for every group.

    Raises:
        ValueError: `weights` names other groups than `groups`.
    """
    members = Groups(names=groups, shared=shared, merge="static", least=1)
    factors = jnp.asarray([members.ordered(weights, what="weights")], jnp.float32)  # f32[1 K]

    def weigh(gram, state, losses):
        del gram, losses
        return factors, state

    return weighted(members, weigh)
