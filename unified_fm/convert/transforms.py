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
    """From one foreign array to ours, and back.

    Attributes:
        ours: `(foreign, heads) -> array of ours`; `heads` is a function without arguments: only
            what needs the number of heads calls it, so a table without attention never has to
            know it.
        theirs: `array of ours -> foreign`.
        dimensions: of the foreign array; None = any.
        parts: how many arrays of ours are rows of the foreign one, one after the other.
    """

    ours: Callable[[np.ndarray, Callable[[], int]], np.ndarray]
    theirs: Callable[[np.ndarray], np.ndarray]
    dimensions: int | None = None
    parts: int = 1

    def load(self, array: np.ndarray, heads: Callable[[], int]) -> Arrays:
        """Our arrays of a foreign one. Raises ConversionError: it has another form."""
        if self.dimensions not in (None, array.ndim):
            raise ConversionError(
                f"expected {self.dimensions} dimensions, found shape {array.shape}"
            )
        if self.parts == 1:
            return (self.ours(array, heads),)
        if array.shape[0] % self.parts:
            raise ConversionError(
                f"{array.shape[0]} fused rows cannot be cut into query, key, value"
            )
        return tuple(self.ours(part, heads) for part in np.split(array, self.parts, axis=0))

    def save(self, arrays: Arrays) -> np.ndarray:
        """The foreign array of ours."""
        found = [self.theirs(array) for array in arrays]
        return found[0] if self.parts == 1 else np.concatenate(found)


def float32(array: np.ndarray) -> np.ndarray:
    """The array as contiguous float32; integers are refused, because no parameter is one."""
    if not np.issubdtype(array.dtype, np.floating):
        raise ConversionError(f"a parameter must hold floating point numbers, found {array.dtype}")
    return np.asarray(array, dtype=np.float32, order="C")


def _width(size: int, heads: Callable[[], int]) -> tuple[int, int]:
    """Splits a model width into (heads, width of a head)."""
    count = heads()
    if count < 1 or size % count:
        raise ConversionError(f"width {size} is not a multiple of {count} heads")
    return count, size // count


def _split(array, heads):
    return array.T.reshape(array.shape[1], *_width(array.shape[0], heads))


def _merge(array, heads):
    return array.T.reshape(*_width(array.shape[1], heads), array.shape[0])


SAME = Transform(lambda x, heads: x, lambda x: x)
LINEAR = Transform(lambda x, heads: x.T, lambda x: x.T, 2)
CONV = Transform(lambda x, heads: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1), 4)
# Query, key and value: weight [D, D] <-> kernel [D H W], bias [D] <-> [H W].
SPLIT = Transform(_split, lambda x: x.reshape(x.shape[0], -1).T, 2)
SPLIT_BIAS = Transform(
    lambda x, heads: x.reshape(_width(x.shape[0], heads)), lambda x: x.reshape(-1), 1
)
# Output projection: weight [D, D] <-> kernel [H W D].
MERGE = Transform(_merge, lambda x: x.reshape(-1, x.shape[-1]).T, 2)
# One matrix of 3 D rows, query | key | value, as timm and BEiT keep it.
FUSED = dataclasses.replace(SPLIT, parts=3)
FUSED_BIAS = dataclasses.replace(SPLIT_BIAS, parts=3)


def add_axes(count: int) -> Transform:
    """Puts `count` axes of size 1 in front: [D] <-> [1 1 D]."""
    return Transform(
        lambda x, heads: x.reshape((1,) * count + x.shape), lambda x: x.reshape(x.shape[count:])
    )
