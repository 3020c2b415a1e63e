"""Position embeddings and relative-position tables for another grid of patches.

Both maps are linear and the same along rows and columns, so each is one small matrix per axis.
"""

import contextlib
import math

import numpy as np

from unified_fm.convert.errors import ConversionError


def fit(name: str, leaf: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A checkpoint's parameter `name`, resized if another grid is all that the model differs in.

    It comes back as it is, if that does not give it the model's `shape`.
    """
    resized = leaf
    if leaf.shape != shape:
        with contextlib.suppress(ConversionError):
            if name.endswith("/relative_position_bias"):
                resized = resize_table(leaf, (math.isqrt(max(0, shape[0] - 3)) + 1) // 2)
            elif name == "vision/position" and len(shape) == 3:
                resized = resize_position(leaf, math.isqrt(shape[1]))
    return resized if resized.shape == shape else leaf


def resize_position(position: np.ndarray, grid: int) -> np.ndarray:
    """Absolute positions f[1 S D] -> f[1 S' D] for a grid x grid image; bicubic as PyTorch's.

    S is g^2, or g^2 + 1 with the class token's slot first, which stays as it is.

    Raises:
        ConversionError: S is neither.
    """
    slots = position.shape[1] if position.ndim == 3 and len(position) == 1 else 0
    side = math.isqrt(slots)
    has_class = side * side != slots
    side = math.isqrt(slots - has_class)
    if side * side != slots - has_class or side == 0:
        raise ConversionError(f"positions {position.shape} are not those of a square grid")
    if side == grid:
        return position
    weights = _bicubic(side, grid)
    patches = position[0, int(has_class) :].reshape(side, side, -1).astype(np.float64)
    patches = np.einsum("ai,bj,ijd->abd", weights, weights, patches, optimize=True)
    patches = patches.reshape(1, grid * grid, -1).astype(position.dtype)
    return np.concatenate([position[:, : int(has_class)], patches], axis=1)


def resize_table(table: np.ndarray, grid: int) -> np.ndarray:
    """A relative-position table f[(2g-1)^2+3 H] for another grid: the spline of X-FM section 6.4.

    The three class entries at the end are copied. The others are known at offsets that lie closer
    together near 0: 1, 1 + q, 1 + q + q^2, ... with q such that they span the new offsets.

    Raises:
        ConversionError: the number of rows does not fit.
    """
    if table.ndim != 2:
        raise ConversionError(f"a relative-position table has 2 dimensions, found {table.shape}")
    old = math.isqrt(max(0, len(table) - 3))
    if old * old != len(table) - 3 or old % 2 == 0:
        raise ConversionError(f"{len(table)} rows are not (2g-1)^2 + 3 for any grid g")
    new = 2 * grid - 1
    if new == old:
        return table
    known = _geometric(old // 2, new // 2)
    weights = spline_weights(known, np.arange(-(new // 2), new // 2 + 1.0))
    inner = table[:-3].reshape(old, old, -1).astype(np.float64)
    inner = np.einsum("ai,bj,ijh->abh", weights, weights, inner, optimize=True)
    return np.concatenate([inner.reshape(new * new, -1).astype(table.dtype), table[-3:]])


def _geometric(terms: int, reach: int) -> np.ndarray:
    """Coordinates 0 and +- cumulative sums of q^k, the last about `reach`; q by bisection."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        if (1 - q**terms) / (1 - q) > reach:
            high = q
        else:
            low = q
    steps = np.cumsum(q ** np.arange(terms))
    return np.concatenate([-steps[::-1], [0.0], steps])


def spline_weights(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Matrix f64[m n] from values at `known` f64[n] to a cubic spline's values at `wanted` f64[m].

    Outside the known range the value at its end is taken; of fewer than four points it is the
    polynomial through them.
    """
    import scipy.interpolate  # only where it is asked for: the import takes half a second

    degree = min(3, len(known) - 1)
    spline = scipy.interpolate.make_interp_spline(known, np.eye(len(known)), degree)
    return spline(np.clip(wanted, known[0], known[-1]))


def _bicubic(old: int, new: int) -> np.ndarray:
    """Cubic convolution (a = -0.75, half-pixel centres, repeated borders) as f64[new old]."""
    centre = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centre).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in range(4):
        distance = np.abs(centre - (first + tap))
        near = (1.25 * distance - 2.25) * distance**2 + 1
        far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
        value = np.where(distance <= 1, near, far)
        np.add.at(weights, (np.arange(new), np.clip(first + tap, 0, old - 1)), value)
    return weights
