"""Resizing positions, against SciPy, PyTorch, and polynomials that a cubic must reproduce."""

import pathlib

import numpy as np
import pytest
import scipy.interpolate

from unified_fm.convert import resize
from unified_fm.convert.errors import ConversionError

GOLDEN = pathlib.Path(__file__).parent / "golden"


def geometric(side, reach):
    """The published coordinates, written as the published loop: section 6.4."""
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        q = (left + right) / 2
        left, right = (left, q) if (1 - q ** (side // 2)) / (1 - q) > reach else (q, right)
    distances, current = [], 1.0
    for step in range(side // 2):
        distances.append(current)
        current += q ** (step + 1)
    return np.array([-d for d in reversed(distances)] + [0] + distances)


@pytest.mark.parametrize(("old", "new"), [(14, 24), (14, 30), (14, 7), (4, 6), (3, 5)])
def test_tables_equal_scipys_bivariate_spline(old, new):
    rng = np.random.default_rng(0)
    side, wide = 2 * old - 1, 2 * new - 1
    table = rng.normal(size=(side**2 + 3, 2))
    known = geometric(side, wide // 2)
    wanted = np.arange(-(wide // 2), wide // 2 + 1)
    resized = resize.resize_table(table, new)
    assert resized.shape == (wide**2 + 3, 2)
    np.testing.assert_array_equal(resized[-3:], table[-3:])
    for head in range(2):
        values = table[:-3, head].reshape(side, side)
        spline = scipy.interpolate.RectBivariateSpline(known, known, values, kx=3, ky=3, s=0)
        expected = spline(wanted, wanted).ravel()
        np.testing.assert_allclose(resized[:-3, head], expected, rtol=0, atol=1e-12)


def test_a_table_of_a_cubic_polynomial_is_evaluated_exactly():
    """Rows are vertical offsets y, columns horizontal x; the polynomial is not symmetric."""

    def bias(y, x):
        return 0.001 * y**3 - 0.02 * x**2 * y + 0.3 * x - y + 2

    known = geometric(27, 23)
    table = np.concatenate([bias(known[:, None], known).reshape(-1, 1), [[7.0], [8.0], [9.0]]])
    inside = np.arange(-22.0, 23)  # the ends are clamped to the reach of the known offsets
    resized = resize.resize_table(table, 24)[:-3].reshape(47, 47)[1:-1, 1:-1]
    np.testing.assert_allclose(resized, bias(inside[:, None], inside), rtol=0, atol=1e-9)


def test_tables_stay_as_they_are_on_the_same_grid_and_refuse_other_sizes():
    table = np.arange(734.0 * 2 - 4).reshape(732, 2)
    assert resize.resize_table(table, 14) is table
    with pytest.raises(ConversionError, match=r"731 rows are not \(2g-1\)\^2 \+ 3"):
        resize.resize_table(table[1:], 7)


def test_a_table_of_a_two_by_two_grid_goes_through_its_points():
    table = np.arange(12.0)[:, None]
    resized = resize.resize_table(table, 3)[:-3, 0].reshape(5, 5)
    # Offsets -1, 0, 1 are known; q = 1.5 does not stretch one term, so the ends are repeated.
    np.testing.assert_allclose(resized[1:-1, 1:-1], np.arange(9.0).reshape(3, 3), atol=1e-12)
    np.testing.assert_allclose(resized[0], resized[1])


@pytest.mark.parametrize("side", [3, 8, 13])
def test_positions_equal_pytorchs_bicubic(side):
    with np.load(GOLDEN / "bicubic.npz", allow_pickle=False) as golden:
        resized = resize.resize_position(golden["position"], side)
        np.testing.assert_array_equal(resized[:, :1], golden["position"][:, :1])
        np.testing.assert_allclose(resized[:, 1:], golden[f"to_{side}"], rtol=0, atol=2e-6)
        without = resize.resize_position(golden["position"][:, 1:], side)
        np.testing.assert_array_equal(without, resized[:, 1:])


def test_positions_refuse_what_is_no_square():
    with pytest.raises(ConversionError, match=r"\(1, 7, 2\) are not those of a square grid"):
        resize.resize_position(np.zeros((1, 7, 2)), 4)
