"""What all merges share: the groups, the shared parameters, and dot products over them.

A merge mixes gradients only on the parameters that the groups share; on every other parameter it
sums them (a text head gets no gradient from images, so the sum is its own gradient). Most
published merges need nothing but the dot products of the groups' gradients, the Gram matrix: they
turn `f32[K K]` into K weights, and `weighted` does the rest without ever flattening a tree.
"""

import dataclasses
import functools
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from unified_fm import choices, rules

Tree = Any
SCOPES = ("model", "layer", "tensor")
LAYER = r"((?:.*?/)?layer_\d+)/.*"  # the part in brackets names the block

_EXPONENTS = 126  # of two, whose inverse float32 has as well
_SHOWN = 5  # paths listed in an error


class Gram(NamedTuple):
    """Dot products of the groups' gradients, each block in a unit of its own.

    The squares of gradients near 1e-25 vanish in float32 and those near 1e25 overflow, so the
    gradients of a block are first divided by a power of two near their largest entry, which changes
    no digit. Weights that do not depend on the gradients' common length need the unit no further.

    Attributes:
        dots: of the divided gradients, f32[N K K]; 0 where a group has no gradient.
        unit: what they were divided by, f32[N]; plain dot products are `dots * unit**2`.
    """

    dots: jax.Array
    unit: jax.Array


class Refresh(Protocol):
    """What the loop does to the optimizer state between two steps, outside the compiled step."""

    def is_due(self, step: int) -> bool:
        """Whether anything changes before the step of this index (the first is 0)."""
        ...

    def __call__(self, opt_state: Tree, step: int) -> Tree:
        """`opt_state` as that step must find it; itself where nothing is due."""
        ...


class Adam(NamedTuple):
    """The clip and the Adam that follow a merge; the defaults are those of a merge alone.

    Attributes:
        b1, b2, eps: as `optax.scale_by_adam` takes them.
        clip: largest global norm of what goes into Adam; None does not clip.
        trained: a tree of bools like the parameters, False where one is frozen; None: all train.
    """

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip: float | None = 1.0
    trained: Tree | None = None


class Merge(optax.GradientTransformationExtraArgs):
    """The first link of the optimizer: from `{group: gradient tree}` to one tree.

    The step gives every update `losses={group: f32[]}`. Any optax transformation of that kind will
    do (`as_merge`); this one has beside `init` and `update` what a run asks for.

    Attributes:
        refresh: called before every step; None if all happens inside the step.
        after: a link behind all others but the projection, for what is to hold of the finished
            update, decay included; None: there is none.
    """

    refresh: Refresh | None = None
    after: optax.GradientTransformation | None = None

    def for_adam(self, adam: Adam) -> "Merge":
        """The same merge in front of this clip and Adam; itself, unless it has its own of them."""
        del adam
        return self

    def has_adam(self, params: Tree) -> Tree:
        """Says for every leaf whether it leaves the merge as a step of Adam, not as a gradient.

        The chain behind gives those leaves neither its clip nor its Adam, else all is as for any:
        freezing, weight decay, rates and projection.
        """
        return jax.tree.map(lambda _: False, params)

    def for_run(self, total_steps: int) -> "Merge":
        """The same merge for a run of this length; itself, unless it counts in shares of a run.

        Raises:
            ValueError: it needs a longer run.
        """
        del total_steps
        return self


def as_merge(made: Any, what: str) -> Merge:
    """What a merge plugin returned, with the defaults of `Merge` if it is a plain transformation.

    Raises:
        TypeError: it is none; `what` names the plugin in the message.
    """
    if isinstance(made, Merge):
        return made
    if not isinstance(made, optax.GradientTransformation):
        raise TypeError(
            f"{what} returned {made!r}: a merge is an optax transformation from "
            "{group: gradient tree} to one tree"
        )
    return Merge(*optax.with_extra_args_support(made))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Groups:
    """The names of the gradient groups and the rule that says which parameters they share.

    Attributes:
        names: the groups, in the order in which their gradients are handled.
        shared: a regex of whole paths (`encoder/.*`), or rules `(regex, bool)`; on all other
            parameters the gradients are summed.
        merge: the name of the merge, for messages.
        least: the smallest number of groups that the merge can work with.
        most: the largest.
    """

    names: Sequence[str]
    shared: str | rules.Rules
    merge: str
    least: int = 2
    most: int = 64

    def __post_init__(self):
        if isinstance(self.names, str) or len(set(self.names)) != len(self.names):
            raise ValueError(f"{self.merge}: groups must be distinct names, found {self.names!r}")
        object.__setattr__(self, "names", tuple(self.names))
        if not self.least <= len(self.names) <= self.most:
            few = self.least == self.most
            raise ValueError(
                f"{self.merge} merges {'exactly' if few else 'at least'} {self.least} groups"
                f"{'' if few else f' and at most {self.most}'}, "
                f"found {len(self.names)}: {', '.join(self.names) or 'none'}"
            )

    def check(self, params: Tree) -> None:
        """Refuses a rule of the shared parameters that matches none of `params`.

        Raises:
            ValueError: with the rule and some of the paths.
        """
        if not any(jax.tree.leaves(self.is_shared(params))):
            found = rules.names(params)
            some = ", ".join(found[:_SHOWN]) + (", ..." if len(found) > _SHOWN else "")
            raise ValueError(
                f"{self.merge}: shared={self.shared!r} matches no parameter; "
                f"the {len(found)} parameters are {some}"
            )

    def is_shared(self, tree: Tree) -> Tree:
        """Says for every leaf of `tree` whether the groups share it."""
        pairs = self.shared
        if isinstance(pairs, str):
            pairs = ((pairs, True), (".*", False))
        return rules.assign(tree, pairs, what=f"{self.merge}: shared")

    def ordered(self, by_group: Mapping[str, Any], *, what: str = "gradients") -> list[Any]:
        """Lists the values of `{group: value}` in the order of `names`.

        Raises:
            ValueError: the mapping has other groups than this merge was built for.
        """
        if not isinstance(by_group, Mapping) or set(by_group) != set(self.names):
            found = sorted(by_group) if isinstance(by_group, Mapping) else type(by_group).__name__
            raise ValueError(
                f"{self.merge} was built for the groups {list(self.names)}, the {what} have {found}"
            )
        return [by_group[name] for name in self.names]

    def losses(self, losses: Mapping[str, jax.Array] | None) -> jax.Array:
        """Stacks the losses of the groups, f32[K].

        Raises:
            ValueError: no losses were given, or those of other groups.
        """
        if losses is None:
            raise ValueError(
                f"{self.merge} needs the losses: update(grads, state, params, "
                f"losses={{{', '.join(f'{name!r}: ...' for name in self.names)}}})"
            )
        return jnp.stack([jnp.float32(x) for x in self.ordered(losses, what="losses")])

    def combine(self, rule: Callable[..., jax.Array], trees: Sequence[Tree], *rest: Tree) -> Tree:
        """Gives `rule(*gradients, *rest)` on every shared leaf and the sum on every other.

        `rest` are further trees of the parameters' structure (a leaf of theirs may be anything).
        """

        def leaf(shared, *values):
            gradients = values[: len(trees)]
            merged = rule(*values) if shared else total(gradients)
            return merged.astype(jnp.result_type(*gradients))

        return jax.tree.map(leaf, self.is_shared(trees[0]), *trees, *rest)

    def blocks(self, tree: Tree, scope: str) -> tuple[list[str], Tree]:
        """Splits the shared leaves into blocks: all together, by layer, or each on its own.

        Returns:
            The names of the blocks, and a tree with the index of each leaf's block (of a leaf that
            is not shared: -1).
        """
        shared = jax.tree.leaves(self.is_shared(tree))
        paths = rules.names(tree)
        keys = [block_name(path, scope) for path in paths]
        found = list(dict.fromkeys(key for key, used in zip(keys, shared, strict=True) if used))
        index = [found.index(k) if used else -1 for k, used in zip(keys, shared, strict=True)]
        return found, jax.tree.unflatten(jax.tree.structure(tree), index)

    def gram(self, trees: Sequence[Tree], scope: str = "model") -> Gram:
        """Dot products of the groups' gradients over each shared block."""
        found, index = self.blocks(trees[0], scope)
        leaves = zip(jax.tree.leaves(index), *map(jax.tree.leaves, trees), strict=True)
        parts: list[list[list[jax.Array]]] = [[] for _ in found]
        for block, *gradients in leaves:
            if block >= 0:
                parts[block].append([g.astype(jnp.float32) for g in gradients])
        dots, units = zip(*map(_scaled_dots, parts), strict=True)
        return Gram(jnp.stack(dots), jnp.stack(units))


def weighted(
    groups: Groups,
    weigh: Callable[[Gram, Any, jax.Array | None], tuple[jax.Array, Any]],
    *,
    start: Callable[[int], Any] = lambda blocks: optax.EmptyState(),
    scope: str = "model",
    uses_losses: bool = False,
) -> Merge:
    """Makes a merge that gives each group's shared gradient a weight.

    Args:
        groups: the groups and what they share.
        weigh: `(gram, state, losses f32[K] or None) -> (weights f32[N K], state)`, where N is the
            number of blocks and `gram` has their dot products.
        start: number of blocks -> first state.
        scope: "model", "layer" or "tensor": one set of weights for each.
        uses_losses: whether the update needs `losses={group: scalar}`.
    """
    choices.check(f"{groups.merge}: scope", scope, SCOPES)

    def init(params):
        groups.check(params)
        return start(len(groups.blocks(params, scope)[0]))

    def update(updates, state, params=None, *, losses=None, **extra_args):
        del params, extra_args
        trees = groups.ordered(updates)
        losses = groups.losses(losses) if uses_losses else None
        # K x K products in TF32 or bfloat16, an accelerator's default, would lose the solution.
        with jax.default_matmul_precision("highest"):
            weights, state = weigh(groups.gram(trees, scope), state, losses)

        def rule(*values):
            *gradients, block = values
            return total(weights[block, k] * g for k, g in enumerate(gradients))

        _, index = groups.blocks(trees[0], scope)
        return groups.combine(rule, trees, index), state

    return Merge(init, update)


def total(values: Any) -> jax.Array:
    """The sum of one or more arrays, in their order and with no zero to start from."""
    return functools.reduce(operator.add, values)


def divide(a: jax.typing.ArrayLike, b: jax.Array) -> jax.Array:
    """a / b, and 0 where b is 0: a group without a gradient must not turn the update into NaN."""
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))


def new_key(seed: int) -> jax.Array:
    """A random key as plain numbers, u32[2], as a state that is saved must hold it."""
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


def next_key(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits a plain key into (the next plain key, a key to draw from now)."""
    following, now = jax.random.split(jax.random.wrap_key_data(key, impl="threefry2x32"))
    return jax.random.key_data(following), now


def block_name(path: str, scope: str = "layer") -> str:
    """The block of a parameter: `encoder/layer_00/mlp_in/kernel` is in `encoder/layer_00`.

    Parameters outside the numbered layers form one block per first name (`text_embed`).
    """
    if scope == "model":
        return "model"
    if scope == "tensor":
        return path
    layer = re.fullmatch(LAYER, path)
    return layer.group(1) if layer else path.split("/")[0]


def _dots(gradients: Sequence[jax.Array]) -> jax.Array:
    """f32[K K] of one leaf; each pair once."""
    count = range(len(gradients))
    pairs = {(i, j): jnp.sum(gradients[i] * gradients[j]) for i in count for j in count if i <= j}
    return jnp.stack([jnp.stack([pairs[min(i, j), max(i, j)] for j in count]) for i in count])


def _scaled_dots(leaves: Sequence[Sequence[jax.Array]]) -> tuple[jax.Array, jax.Array]:
    """(dot products f32[K K], unit f32[]) of one block, given as leaves of K gradients each."""
    largest = jnp.stack([jnp.max(jnp.abs(g)) for gradients in leaves for g in gradients]).max()
    # frexp of a number that is not finite says nothing; the dot products then say it.
    exponent = jnp.clip(jnp.frexp(largest)[1], -_EXPONENTS, _EXPONENTS)
    inverse = jnp.ldexp(jnp.float32(1), -exponent)
    dots = total(_dots([g * inverse for g in gradients]) for gradients in leaves)
    return dots, jnp.ldexp(jnp.float32(1), exponent)
