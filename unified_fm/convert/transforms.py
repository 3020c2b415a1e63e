"""How one foreign array becomes one or several of ours, and back.

Letters: D model width, H heads, W width of a head (D = H W), F any output width, p patch side.
PyTorch stores a Linear weight as [out, in] and a convolution as [out, in, h, w]; ours are
[in, out] and [h, w, in, out], and attention kernels keep their heads apart: [D H W], out [H W D].
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from unified_fm.convert.errors import ConversionError

Arrays = tuple[np.ndarray, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """A pair of functions: `load(foreign, heads)` -> our arrays, `save(ours)` -> the foreign one.

    `heads` is a function without arguments: only transforms that need the number of heads call
    it, so a table without attention never has to know it.
    """

    load: Callable[[np.ndarray, Callable[[], int]], Arrays]
    save: Callable[[Arrays], np.ndarray]


def float32(array: np.ndarray) -> np.ndarray:
    """The array as contiguous float32; integers are refused, because no parameter is one."""
    if not np.issubdtype(array.dtype, np.floating):
        raise ConversionError(f"a parameter must hold floating point numbers, found {array.dtype}")
    return np.asarray(array, dtype=np.float32, order="C")


def _need(array: np.ndarray, *dimensions: int) -> None:
    if array.ndim not in dimensions:
        wanted = " or ".join(map(str, dimensions))
        raise ConversionError(f"expected {wanted} dimensions, found shape {array.shape}")


def _width(size: int, heads: Callable[[], int]) -> tuple[int, int]:
    """Splits a model width into (heads, width of a head)."""
    count = heads()
    if count < 1 or size % count:
        raise ConversionError(f"width {size} is not a multiple of {count} heads")
    return count, size // count


def _load_linear(array, heads):
    _need(array, 2)
    return (array.T,)


def _load_conv(array, heads):
    _need(array, 4)
    return (array.transpose(2, 3, 1, 0),)


def _load_split(array, heads):
    _need(array, 2)
    return (array.T.reshape(array.shape[1], *_width(array.shape[0], heads)),)


def _load_split_bias(array, heads):
    _need(array, 1)
    return (array.reshape(_width(array.shape[0], heads)),)


def _load_merge(array, heads):
    _need(array, 2)
    return (array.T.reshape(*_width(array.shape[1], heads), array.shape[0]),)


def _thirds(array: np.ndarray) -> list[np.ndarray]:
    if array.shape[0] % 3:
        raise ConversionError(f"{array.shape[0]} fused rows cannot be cut into query, key, value")
    return np.split(array, 3, axis=0)


def _load_fused(array, heads):
    _need(array, 2)
    return tuple(_load_split(part, heads)[0] for part in _thirds(array))


def _load_fused_bias(array, heads):
    _need(array, 1)
    return tuple(_load_split_bias(part, heads)[0] for part in _thirds(array))


def _save_split(arrays):
    (array,) = arrays
    return array.reshape(array.shape[0], -1).T


SAME = Transform(lambda array, heads: (array,), lambda arrays: arrays[0])
LINEAR = Transform(_load_linear, lambda arrays: arrays[0].T)
CONV = Transform(_load_conv, lambda arrays: arrays[0].transpose(3, 2, 0, 1))
# Query, key and value: weight [D, D] <-> kernel [D H W], bias [D] <-> [H W].
SPLIT = Transform(_load_split, _save_split)
SPLIT_BIAS = Transform(_load_split_bias, lambda arrays: arrays[0].reshape(-1))
# Output projection: weight [D, D] <-> kernel [H W D].
MERGE = Transform(_load_merge, lambda arrays: arrays[0].reshape(-1, arrays[0].shape[-1]).T)
# One matrix of 3 D rows, query | key | value, as timm and BEiT keep it.
FUSED = Transform(
    _load_fused, lambda arrays: np.concatenate([_save_split((array,)) for array in arrays])
)
FUSED_BIAS = Transform(
    _load_fused_bias, lambda arrays: np.concatenate([array.reshape(-1) for array in arrays])
)


def add_axes(count: int) -> Transform:
    """Puts `count` axes of size 1 in front: [D] <-> [1 1 D]."""

    def save(arrays):
        (array,) = arrays
        return array.reshape(array.shape[count:])

    return Transform(lambda array, heads: (array.reshape((1,) * count + array.shape),), save)
