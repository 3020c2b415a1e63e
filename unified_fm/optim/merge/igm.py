"""IGM, iterative gradient masking: each entry of a shared tensor follows one of two groups.

The idea, to balance the updates of image and text losses by masking gradients, is from "Towards a
Unified Foundation Model" (arXiv 2112.07074), which gives neither rule nor number: the rules here,
their names and every default are our choice. A 0/1 mask over the shared kernels starts with every
entry owned by one group (the owner, "text"); at a few steps, along a ramp, the entries that matter
least to it are given away to the other group ("image"), until a final ratio is reached.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from unified_fm import choices, rules
from unified_fm.optim import masks
from unified_fm.optim.merge.base import Groups, Merge, divide
from unified_fm.optim.ramp import Ramp, make_ramp

COMBINE = ("exclusive", "other_plus_masked_owner", "owner_plus_masked_other", "sum")
ACCUMULATE = ("window_sum", "ema", "last_step")
SCOPES = ("per_tensor", "global")
SCORE: dict[str, Callable[..., jax.Array] | None] = {  # of (g_owner, g_other, parameter)
    "abs_owner": lambda own, other, p: jnp.abs(own),
    "abs_other": lambda own, other, p: -jnp.abs(other),
    "sq_owner": lambda own, other, p: own**2,
    "saliency": lambda own, other, p: jnp.abs(p * own),
    "weight_magnitude": lambda own, other, p: jnp.abs(p),
    "ratio": lambda own, other, p: divide(jnp.abs(own), jnp.abs(own) + jnp.abs(other)),
    "random": None,  # drawn when the mask is chosen
}
_OF_PARAMS = ("saliency", "weight_magnitude")
# The attention biases of this library have two axes, heads and their width: the name decides.
_NOT_KERNELS = r"(.*[/_])?(bias|scale)"


class Masking(Merge):
    """The merge of these options; its mask changes in `refresh`."""

    options: "Options"

    @property
    def refresh(self) -> masks.Refresh:
        """Chooses the next mask.

        Raises:
            ValueError: the ramp is in shares of a run whose length nobody told.
        """
        _ = self.options.ramp
        return masks.Refresh(self.options)

    def for_run(self, total_steps: int) -> "Masking":
        """The same with the ramp of a run of this length, unless the options say another."""
        if self.options.total_steps is not None:
            return self
        return _masking(dataclasses.replace(self.options, total_steps=total_steps))


def merge(**options: Any) -> Masking:
    """Masks the gradients of two groups on the parameters that they share.

    The options are the fields of `Options`, checked at once. The mask and its scores live in the
    state. The mask changes outside the step, in `refresh`, so the step does no sorting:

    >>> import jax, optax
    >>> from unified_fm.optim.merge import igm
    >>> masking = igm.merge(groups=("image", "text"), shared="encoder/.*", total_steps=100)
    >>> tx = optax.chain(masking, optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    >>> params = {"encoder": {"kernel": jax.numpy.ones((4, 4))}, "head": jax.numpy.ones(4)}
    >>> losses = {
    ...     "image": lambda params: (params["encoder"]["kernel"] ** 2).sum(),
    ...     "text": lambda params: (params["encoder"]["kernel"] @ params["head"]).sum(),
    ... }
    >>> state = tx.init(params)
    >>> for step in range(100):
    ...     state = masking.refresh(state, step)  # changes the mask before steps 5, 9, ... 45
    ...     grads = {group: jax.grad(loss)(params) for group, loss in losses.items()}
    ...     updates, state = tx.update(grads, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> int(state[0].mask["encoder"]["kernel"].sum())  # 8 of the 16 entries still follow the text
    8

    Raises:
        TypeError: an option that does not exist, or one without default that is missing.
        ValueError: not two groups, an owner that is none of them, a ramp that ends after the run or
            any other impossible value: what was found, and what is possible.
    """
    return _masking(Options(**options))


def _masking(options: "Options") -> Masking:
    made = Masking(options.init, options.update)
    made.options = options
    return made


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What IGM does; M is 1 where an entry belongs to the owner. Every default is our choice.

    In the values of `combine` and `score` the groups may stand by their own names: with "text" the
    owner and "image" the other, `abs_text` is `abs_owner` and `image_plus_masked_text` is
    `other_plus_masked_owner`. To swap the roles, change `owner` alone.

    Attributes:
        groups: names of the two gradient groups.
        shared: regex of the shared parameters; on the others the gradients are summed.
        owner: the group that starts with every entry.
        total_steps: length of the run, for fractions and to check that the ramp fits into it; None
            is that of the run that the merge is used in (`for_run`).
        combine: "exclusive": M g_owner + (1 - M) g_other, after a warm-up to t0 with the sum;
            "other_plus_masked_owner": g_other + M g_owner; "owner_plus_masked_other": g_owner +
            (1 - M) g_other; "sum": the mask is kept but not used.
        score: the entries of lowest score are given away. "abs_owner": |g_owner|; "sq_owner": its
            square; "abs_other", mirrored: those of largest |g_other| go; "saliency": |p g_owner|;
            "weight_magnitude": |p|; "ratio": |g_owner| / (|g_owner| + |g_other|); "random".
        accumulate: "window_sum" over the steps since the last change, "ema" or "last_step".
        ema_decay: of "ema".
        scope: "per_tensor": every tensor gives away the same share; "global": one ranking.
        schedule: "cubic", "linear", "one_shot" (all at t0) or "geometric".
        nested: whether what was given away stays so; if not, each choice starts afresh.
        final_ratio: share of the entries that is given away in the end.
        t0: first change; like t1 and dt in steps (an integer) or as a share of the run (a float).
        t1: last change.
        dt: steps between changes; None for a tenth of the ramp.
        rescale: divide each masked gradient by the share of its entries that are kept.
        reset_moments_on_flip: zero Adam's moments where an entry changes sides.
        maskable: "ndim>=2" (kernels: not biases and scales, whatever their shape), "all", or a
            regex of paths; shared parameters that it leaves out get the sum.
        score_dtype: "float32", or "bfloat16" for half the memory and coarser sums.
        seed: of random scores.
    """

    groups: Sequence[str]
    shared: str | rules.Rules
    owner: str = "text"
    total_steps: int | None = None
    combine: str = "exclusive"
    score: str = "abs_owner"
    accumulate: str = "window_sum"
    ema_decay: float = 0.99
    scope: str = "per_tensor"
    schedule: str = "cubic"
    nested: bool = True
    final_ratio: float = 0.5
    t0: int | float = 0.05
    t1: int | float = 0.5
    dt: int | float | None = None
    rescale: bool = False
    reset_moments_on_flip: bool = False
    maskable: str = "ndim>=2"
    score_dtype: str = "float32"
    seed: int = 0

    def __post_init__(self):
        names = self.members.names
        if self.owner not in names:
            raise ValueError(f"igm: owner={self.owner!r} is none of the groups {list(names)}")
        other = next(name for name in names if name != self.owner)
        for field, roles in (("combine", COMBINE), ("score", tuple(SCORE))):
            own_words = [c.replace("owner", self.owner).replace("other", other) for c in roles]
            known = dict.fromkeys([*roles, *own_words])
            found = choices.check(field, getattr(self, field), known)
            role = roles[own_words.index(found)] if found in own_words else found
            object.__setattr__(self, field, role)
        choices.check("accumulate", self.accumulate, ACCUMULATE)
        choices.check("scope", self.scope, SCOPES)
        choices.check("score_dtype", self.score_dtype, ("float32", "bfloat16"))
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"igm: ema_decay must be in [0, 1), found {self.ema_decay!r}")
        if self.total_steps is not None or not any(
            isinstance(value, float) for value in (self.t0, self.t1, self.dt)
        ):
            _ = self.ramp  # refuses an impossible one now; shares wait for the length of the run

    @functools.cached_property
    def members(self) -> Groups:
        return Groups(names=self.groups, shared=self.shared, merge="igm", most=2)

    @functools.cached_property
    def ramp(self) -> Ramp:
        return make_ramp(
            schedule=self.schedule,
            final_ratio=self.final_ratio,
            t0=self.t0,
            t1=self.t1,
            dt=self.dt,
            total_steps=self.total_steps,
        )

    def init(self, params: Any) -> masks.State:
        self.members.check(params)
        _ = self.ramp  # refused here if nobody told the length of the run
        return masks.start(
            params,
            self._maskable(params),
            scored=SCORE[self.score] is not None,
            score_dtype=self.score_dtype,
            seed=self.seed,
        )

    def update(self, updates, state, params=None, **extra_args):
        del extra_args
        if self.score in _OF_PARAMS and params is None:
            raise ValueError(f"igm: score={self.score!r} needs update(grads, state, params)")
        trees = self.members.ordered(updates)
        warm = state.count < self.ramp.t0

        def leaf(first, second, mask):
            own, other = self._roles(first, second)
            if isinstance(mask, optax.MaskedNode):
                return first + second
            return jnp.where(warm, first + second, self._combined(mask, own, other))

        merged = self.members.combine(leaf, trees, state.mask)
        score = state.score
        if SCORE[self.score] is not None:
            own, other = self._roles(*trees)
            score = jax.tree.map(
                self._accumulated, own, other, own if params is None else params, score
            )
        return merged, state._replace(count=optax.safe_increment(state.count), score=score)

    def _roles(self, first, second):
        """(the owner's, the other's) of two values in the order of the groups."""
        return (first, second) if self.members.names[0] == self.owner else (second, first)

    def _combined(self, mask, own, other):
        owned = mask == 1
        kept_own, kept_other = jnp.where(owned, own, 0), jnp.where(owned, 0, other)
        if self.rescale:
            share = jnp.mean(owned, dtype=jnp.float32)
            kept_own, kept_other = divide(kept_own, share), divide(kept_other, 1 - share)
        if self.combine == "exclusive":
            return jnp.where(owned, kept_own, kept_other)
        if self.combine == "other_plus_masked_owner":
            return other + kept_own
        if self.combine == "owner_plus_masked_other":
            return own + kept_other
        return own + other

    def _accumulated(self, own, other, param, score):
        if isinstance(score, optax.MaskedNode):
            return score
        formula = cast(Callable[..., jax.Array], SCORE[self.score])
        new = formula(own, other, param).astype(score.dtype)
        if self.accumulate == "window_sum":
            return score + new
        if self.accumulate == "ema":
            return self.ema_decay * score + (1 - self.ema_decay) * new
        return new

    def _maskable(self, params):
        """A tree of bools: the shared leaves that have a mask.

        Raises:
            ValueError: there is none.
        """
        shared = self.members.is_shared(params)
        if self.maskable == "ndim>=2":
            named = rules.assign(params, [(_NOT_KERNELS, False), (".*", True)])
            chosen = jax.tree.map(lambda p, kernel: kernel and p.ndim >= 2, params, named)
        else:
            pattern = ".*" if self.maskable == "all" else self.maskable
            chosen = rules.assign(params, [(pattern, True), (".*", False)], what="igm: maskable")
        both = jax.tree.map(lambda a, b: a and b, shared, chosen)
        if not any(jax.tree.leaves(both)):
            raise ValueError(
                f"igm: maskable={self.maskable!r} matches none of the parameters "
                f"that shared={self.shared!r} matches"
            )
        return both


merge.__signature__ = inspect.signature(Options)
