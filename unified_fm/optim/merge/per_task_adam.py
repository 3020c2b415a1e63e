"""Per-task Adam: on what the groups share, each has an Adam of its own, and the steps are added.

One Adam behind a sum divides both groups by the size of their mixture: the group with the smaller
gradients, or with the rarer ones, hardly moves anything. Here every group is clipped and divided by
its own size first.

In a chain of your own, keep a second Adam off the shared parameters, and have that looked at once:

>>> import jax, optax
>>> from unified_fm.optim import moments
>>> from unified_fm.optim.merge import per_task_adam
>>> merging = per_task_adam.merge(groups=("image", "text"), shared="encoder/.*")
>>> params = {"encoder": {"kernel": jax.numpy.ones(3)}, "head": jax.numpy.ones(2)}
>>> others = jax.tree.map(lambda own: not own, merging.has_adam(params))
>>> others
{'encoder': {'kernel': False}, 'head': True}
>>> adam = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
>>> tx = optax.chain(merging, optax.masked(adam, others), optax.scale_by_learning_rate(0.1))
>>> moments.refuse_second(tx.init(params))
>>> moments.refuse_second(optax.chain(merging, adam).init(params))  # doctest: +ELLIPSIS
Traceback (most recent call last):
ValueError: 1 parameter has an Adam of the gradient groups, and a second one behind the merge...
"""

import math
from collections.abc import Sequence

import jax
import optax

from unified_fm.optim import build
from unified_fm.optim.merge.base import Adam, Groups, Merge, Tree, total
from unified_fm.optim.moments import PerGroup


class PerTaskAdam(Merge):
    """The merge of these options; on the shared parameters it gives steps, not gradients."""

    members: Groups
    given: dict[str, float | None]
    trained: Tree | None

    def for_adam(self, adam: Adam) -> "PerTaskAdam":
        """The same, with the numbers of this Adam where the options give none."""
        return _made(self.members, self.given, adam)

    def has_adam(self, params: Tree) -> Tree:
        """Says for every leaf whether it is shared and trained."""
        shared = self.members.is_shared(params)
        if self.trained is None:
            return shared
        return jax.tree.map(lambda a, b: a and b, shared, self.trained)


def merge(
    *,
    groups: Sequence[str],
    shared: str = ".*",
    clip: float | None = None,
    b1: float | None = None,
    b2: float | None = None,
    eps: float | None = None,
) -> PerTaskAdam:
    """Adds what each group's own Adam makes of its gradient, over the root of their number.

    For each group: its gradient on the shared parameters is clipped by its norm there and goes
    through an Adam with bias correction, whose moments are of this group alone. The steps are
    summed over sqrt(K): unrelated steps, as those of unrelated batches nearly are, then have the
    length of one. With one group all of it is the ordinary clip and Adam. This order of things is
    our choice; no paper is followed.

    On the shared parameters this *replaces* the clip and the Adam of the chain. On all others
    the gradients are summed, and go through those of the chain. So `shared` should leave out the
    heads: one that gets a gradient from one group alone would move by 1 / sqrt(K) of its step.
    A group without a gradient, for a step or for ever, takes no part beyond its own momentum.

    Weight decay, rates and projection follow for all parameters alike.

    Args:
        groups, shared: see `base.Groups`; any number of groups.
        clip: largest norm of a group's gradient on the shared parameters; infinity does not clip.
            None here and below: that of `config.optimizer`; in a chain of your own 1.0.
        b1: decay of the mean of a group's gradients; else 0.9.
        b2: decay of the mean of their squares; else 0.999.
        eps: added to the root of that mean; else 1e-8.

    Raises:
        ValueError: a number outside its range.
    """
    members = Groups(names=groups, shared=shared, merge="per_task_adam", least=1)
    for name, decay in (("b1", b1), ("b2", b2)):
        if decay is not None and not 0 <= decay < 1:
            raise ValueError(f"per_task_adam: {name} must be in [0, 1), found {decay!r}")
    for name, number in (("clip", clip), ("eps", eps)):
        if number is not None and not number > 0:
            raise ValueError(f"per_task_adam: {name} must be above 0, found {number!r}")
    return _made(members, {"b1": b1, "b2": b2, "eps": eps, "clip": clip}, Adam())


def _made(members: Groups, given: dict[str, float | None], behind: Adam) -> PerTaskAdam:
    adam = behind._replace(**{key: value for key, value in given.items() if value is not None})
    one = optax.chain(build.clip(adam.clip), optax.scale_by_adam(adam.b1, adam.b2, adam.eps))
    scale = math.sqrt(len(members.names))

    def init(params):
        members.check(params)
        return PerGroup({name: own.init(params) for name in members.names})

    def update(updates, state, params=None, **extra_args):
        del extra_args
        trees = members.ordered(updates)
        states = members.ordered(state.groups, what="optimizer's state")
        # What is not shared passes by as it is, to be summed.
        steps, states = zip(*map(own.update, trees, states, [params] * len(trees)), strict=True)
        merged = members.combine(lambda *each: total(each) / scale, steps)
        return merged, PerGroup(dict(zip(members.names, states, strict=True)))

    made = PerTaskAdam(init, update)
    own = optax.masked(one, made.has_adam)
    made.members, made.given, made.trained = members, given, behind.trained
    return made
