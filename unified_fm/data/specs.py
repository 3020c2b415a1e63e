"""Shapes and types of arrays that are not there yet, so that a program can be compiled for them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

Tree = dict[str, Any]  # nested dicts of arrays, or of their specs


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """What is known of an array before it is made. Not a tuple: `jax.tree` sees it as one leaf.

    Attributes:
        shape: of one row, or of a whole batch; who gives the spec says which.
        dtype: of the values.
        axis: what axis 0 of a batch counts: "rows", or "images", where several rows share one.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    axis: str = "rows"

    def batched(self, length: int) -> "ArraySpec":
        """The spec of `length` such arrays in one."""
        return dataclasses.replace(self, shape=(length, *self.shape))


def of_one(array: Any, axis: str = "rows") -> ArraySpec:
    """The spec of an array (or a NumPy number) that is one row's."""
    array = np.asarray(array)
    return ArraySpec(array.shape, array.dtype, axis)


def of_rows(tree: Mapping[str, Any], axis: str = "rows") -> Tree:
    """The specs of one row of nested dicts of arrays [rows ...]."""
    return {
        name: of_rows(value, axis)
        if isinstance(value, Mapping)
        else ArraySpec(value.shape[1:], value.dtype, axis)
        for name, value in tree.items()
    }


def batched(tree: Mapping[str, Any], lengths: Mapping[str, int]) -> Tree:
    """The specs of whole batches from those of one row; `lengths` is {axis: how many}."""
    return {
        name: batched(value, lengths)
        if isinstance(value, Mapping)
        else value.batched(lengths[value.axis])
        for name, value in tree.items()
    }


def concatenate(trees: list[Any]) -> Any:
    """Joins nested dicts of arrays of the same keys along axis 0."""
    if isinstance(trees[0], Mapping):
        return {name: concatenate([tree[name] for tree in trees]) for name in trees[0]}
    return np.concatenate(trees)
