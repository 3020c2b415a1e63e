"""A readable difference between the arrays a file holds and the arrays that are wanted."""

from collections.abc import Mapping, Sequence
from typing import Any

from unified_fm import choices, rules

Shapes = Mapping[str, Sequence[int]]


def shape_differences(found: Shapes, wanted: Shapes, *, extra: bool = True) -> list[str]:
    """Lists, one line each, the arrays that are missing, unexpected or of another shape, by path.

    A missing array comes with the nearest unexpected name. Without `extra` it is no difference that
    the file has more than is wanted.
    """
    surplus = sorted(set(found) - set(wanted))
    lines = {}
    for name in sorted(set(wanted) - set(found)):
        near = choices.nearest(name, surplus)
        hint = f"; the nearest in the file is {near}" if near else ""
        lines[name] = f"{name} {tuple(wanted[name])}: missing in the file{hint}"
    for name in surplus if extra else ():
        lines[name] = f"{name} {tuple(found[name])}: in the file, not in the model"
    for name in set(wanted) & set(found):
        if tuple(wanted[name]) != tuple(found[name]):
            lines[name] = f"{name}: {tuple(found[name])} in the file, {tuple(wanted[name])} wanted"
    return [lines[name] for name in sorted(lines)]


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """{path: shape} of a tree of arrays or of anything that has a shape."""
    return {name: tuple(leaf.shape) for name, leaf in rules.named_leaves(tree)}
