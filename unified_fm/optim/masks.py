"""The evolving mask of IGM: its state, and how the next mask is chosen, between two steps.

The mask changes at a few steps of a run, and choosing it sorts every shared tensor, so it is no
part of the training step: `Refresh` is called by the loop. It reads and writes only optimizer
state.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
import optax

from unified_fm.optim import moments
from unified_fm.optim.merge.base import new_key, next_key

Tree = Any


class State(NamedTuple):
    """The state of IGM; trees have the parameters' structure, `MaskedNode` where nothing is masked.

    Attributes:
        count: updates made, and at least the step of the last refresh: a loop also counts the
            steps that it refused, and the warm-up ends when the first mask is chosen.
        mask: 1 where an entry belongs to the owner, 0 where to the other group.
        score: what the next choice ranks the entries by; the lowest are given away first. Empty
            for random scores, which are drawn when needed.
        churn: how many entries of each masked tensor changed sides at the last refresh.
        key: of random scores.
    """

    count: jax.Array  # i32[]
    mask: Tree  # u8
    score: Tree  # f32
    churn: jax.Array  # f32[masked tensors]
    key: jax.Array  # u32[2]


def start(params: Tree, maskable: Tree, *, scored: bool, score_dtype: Any, seed: int) -> State:
    """The state before the first step: the owner has every entry."""

    nothing = optax.MaskedNode()

    def only(make):
        return jax.tree.map(lambda p, used: make(p) if used else nothing, params, maskable)

    mask = only(lambda p: jnp.ones_like(p, dtype=jnp.uint8))
    return State(
        count=jnp.zeros([], jnp.int32),
        mask=mask,
        score=only(lambda p: jnp.zeros_like(p, dtype=score_dtype)) if scored else nothing,
        churn=jnp.zeros(len(jax.tree.leaves(mask))),
        key=new_key(seed),
    )


def next_mask(mask: jax.Array, score: jax.Array, released: jax.Array) -> jax.Array:
    """Gives away the entries with the lowest score until exactly `released` i32[] are 0.

    Entries that are 0 in `mask` u8[...] go first, so a mask only loses entries; ties go in index
    order.
    """
    # By rank and not by a threshold: of equal scores (zeros of words never seen) a threshold would
    # give away all or none, and the ramp counts on an exact number.
    keys = jnp.where(mask.reshape(-1) == 1, score.reshape(-1), -jnp.inf)
    order = jnp.argsort(keys, stable=True)
    places = jnp.arange(keys.size, dtype=jnp.int32)
    rank = jnp.zeros(keys.size, jnp.int32).at[order].set(places)
    return (rank >= released).astype(jnp.uint8).reshape(mask.shape)


@dataclasses.dataclass(frozen=True)
class Refresh:
    """Chooses the next mask at the steps of the ramp; called by the loop, before each step.

    Attributes:
        options: of IGM, `merge.igm.Options`.
    """

    options: Any

    def is_due(self, step: int) -> bool:
        """Says whether the mask changes before the step of this index (the first is 0)."""
        return step in self.options.ramp.steps()

    def __call__(self, opt_state: Tree, step: int) -> Tree:
        """Returns `opt_state` as the step of index `step` must find it.

        Where no refresh is due it comes back as it is, so a loop may call this before every step;
        also `jax.vmap`ped over the states of several runs.

        Args:
            opt_state: a state of any chain that contains IGM, once.
            step: index of the step that follows, a number of the host.

        Raises:
            ValueError: the state of IGM is not there, or not once; or the moments should be reset
                and the chain keeps none.
        """
        if not self.is_due(step):
            return opt_state
        old, options = find(opt_state), self.options
        sizes = [leaf.size for leaf in jax.tree.leaves(old.mask)]
        if options.scope == "global":
            sizes = [sum(sizes)]
        released = np.asarray([options.ramp.released(step, size) for size in sizes], np.int32)
        clear = options.accumulate == "window_sum"  # each window is scored on its own
        how = {"scope": options.scope, "nested": options.nested, "clear_score": clear}
        where = jax.tree.map(_placement, old)
        choose = jax.jit(_choose, static_argnames=tuple(how), out_shardings=where)
        new = choose(old, released, np.int32(step), **how)
        opt_state = _map_states(lambda _: new, opt_state)
        if options.reset_moments_on_flip:
            return _reset_moments(opt_state, old.mask, new.mask)
        return opt_state


def find_all(opt_state: Tree) -> list[State]:
    """Lists the states of IGM in the state of any chain."""
    found: list[State] = []
    _map_states(found.append, opt_state)
    return found


def find(opt_state: Tree) -> State:
    """Finds the state of IGM in the state of any chain.

    Raises:
        ValueError: it is not there, or more than once.
    """
    found = find_all(opt_state)
    if len(found) != 1:
        names = [type(node).__name__ for node in opt_state] if type(opt_state) is tuple else []
        raise ValueError(
            f"the optimizer state must hold one state of igm, found {len(found)} "
            f"in {type(opt_state).__name__} of {names}"
        )
    return found[0]


def _choose(
    state: State,
    released: jax.Array,
    step: jax.Array,
    *,
    scope: str,
    nested: bool,
    clear_score: bool,
) -> State:
    masks, structure = jax.tree.flatten(state.mask)
    scores = jax.tree.leaves(state.score)
    key = state.key
    if not scores:
        key, now = next_key(key)
        keys = jax.random.split(now, len(masks))
        scores = [jax.random.uniform(k, mask.shape) for k, mask in zip(keys, masks, strict=True)]
    # `next_mask` gives away first what is 0 already: from ones, everything is up for choice again.
    kept = masks if nested else [jnp.ones_like(mask) for mask in masks]
    if scope == "global":
        # One ranking over all tensors, so scores must be of one scale; `ratio` is, by its making.
        mask, score = (
            jnp.concatenate([x.reshape(-1) for x in leaves]) for leaves in (kept, scores)
        )
        ends = np.cumsum([mask.size for mask in masks])
        parts = jnp.split(next_mask(mask, score, released[0]), ends[:-1].tolist())
        new = [part.reshape(mask.shape) for part, mask in zip(parts, masks, strict=True)]
    else:
        new = [next_mask(*leaf) for leaf in zip(kept, scores, released, strict=True)]
    churn = [jnp.sum(a != b, dtype=jnp.float32) for a, b in zip(masks, new, strict=True)]
    return state._replace(
        count=jnp.maximum(state.count, step),
        mask=jax.tree.unflatten(structure, new),
        score=jax.tree.map(jnp.zeros_like, state.score) if clear_score else state.score,
        churn=jnp.stack(churn),
        key=key,
    )


def _placement(leaf: Any) -> Any:
    """Where the new leaf must lie: as before, or where a sort would leave it whole everywhere."""
    if isinstance(leaf, jax.core.Tracer) or not isinstance(leaf, jax.Array):
        return None
    return leaf.sharding if isinstance(leaf.sharding, jax.sharding.NamedSharding) else None


def _map_states(function: Callable[[State], Any], opt_state: Tree) -> Tree:
    def is_state(node):
        return isinstance(node, State)

    return jax.tree.map(
        lambda node: function(node) if is_state(node) else node, opt_state, is_leaf=is_state
    )


def _reset_moments(opt_state: Tree, old: Tree, new: Tree) -> Tree:
    """Zeroes Adam's moments where the mask changed: they average another group's gradients."""
    changed = jax.tree.map(lambda a, b: a != b, old, new)
    seen = []

    def is_masked(node):
        return isinstance(node, optax.MaskedNode)

    def keep(change, moment):
        if is_masked(change) or is_masked(moment):
            return moment
        return jnp.where(change, jnp.zeros_like(moment), moment)

    def reset(node):
        if not moments.has_moments(node):
            return node
        seen.append(node)
        return node._replace(
            **{
                field: jax.tree.map(keep, changed, average, is_leaf=is_masked)
                for field, average in moments.of(node).items()
            }
        )

    opt_state = jax.tree.map(reset, opt_state, is_leaf=moments.has_moments)
    if not seen:
        raise ValueError(
            "reset_moments_on_flip: the optimizer state has no moments "
            f"({', '.join(moments.FIELDS)})"
        )
    return opt_state
