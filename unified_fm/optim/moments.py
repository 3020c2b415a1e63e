"""States of optax that average gradients, as Adam's do: which they are, and of which parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from unified_fm import rules

Tree = Any
FIELDS = ("mu", "nu", "trace")  # of optax states, with averages as their values

_SHOWN = 3  # paths listed in an error


class PerGroup(NamedTuple):
    """The state of a merge that has an Adam for each gradient group.

    Attributes:
        groups: {group: the optax state of its own chain}, which is saved and sharded like any.
    """

    groups: Mapping[str, Any]


def has_moments(node: Any) -> bool:
    """Whether this is an optax state that averages gradients."""
    return isinstance(node, tuple) and any(f in FIELDS for f in getattr(node, "_fields", ()))


def of(node: Any) -> dict[str, Tree]:
    """{field: average} of a state that has moments."""
    return {field: getattr(node, field) for field in FIELDS if hasattr(node, field)}


def paths(opt_state: Tree) -> set[str]:
    """The paths of the parameters of which anything in the state of a chain keeps an average."""
    states = jax.tree.leaves(opt_state, is_leaf=has_moments)
    averages = [tree for node in states if has_moments(node) for tree in of(node).values()]
    return {path for tree in averages for path in rules.names(tree)}


def refuse_second(opt_state: Tree) -> None:
    """Refuses the state of a chain in which a parameter goes through two Adams, one after another.

    What comes out of an Adam of the groups is no gradient: one more Adam behind it would divide by
    the size of directions, and undo how the groups were weighed. `build.build` asks this of
    its own chain; of a chain of your own, ask it once: `refuse_second(tx.init(params))`.

    Raises:
        ValueError: with the parameters, the second state and what to write.
    """
    own: set[str] = set()
    others: dict[str, str] = {}
    for node in jax.tree.leaves(opt_state, is_leaf=_keeps):
        if isinstance(node, PerGroup):
            own |= paths(node)
        elif has_moments(node):
            others |= dict.fromkeys(sorted(paths(node)), type(node).__name__)
    if twice := [path for path in others if path in own]:
        some = ", ".join(twice[:_SHOWN]) + (", ..." if len(twice) > _SHOWN else "")
        have = "parameter has" if len(twice) == 1 else "parameters have"
        raise ValueError(
            f"{len(twice)} {have} an Adam of the gradient groups, and a second one behind the "
            f"merge, in {others[twice[0]]}: {some}. Leave them out there: "
            "optax.masked(optax.scale_by_adam(), mask), with a mask that is False where "
            "merge.has_adam(params) is True"
        )


def _keeps(node: Any) -> bool:
    return isinstance(node, PerGroup) or has_moments(node)
