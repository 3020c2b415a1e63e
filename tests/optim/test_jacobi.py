"""Singular values of columns of very different length, against float64."""

import jax
import numpy as np
import pytest

from unified_fm.optim import jacobi


@pytest.mark.parametrize("count", [3, 4, 7])
def test_A9_small_singular_values_keep_their_digits(count):
    rng = np.random.default_rng(count)
    matrix = rng.normal(size=(count, count)) + 3 * np.eye(count)
    matrix = np.float32(matrix * np.geomspace(1, 1e-12, count))
    values, right = jax.jit(jacobi.columns)(matrix)
    # LAPACK in float64 has 16 digits of the largest, so 4 of the smallest.
    expected = np.linalg.svd(np.float64(matrix), compute_uv=False)
    np.testing.assert_allclose(np.sort(values)[::-1], expected, rtol=1e-3)
    np.testing.assert_allclose(right.T @ right, np.eye(count), atol=1e-5)
    turned = np.float64(matrix) @ np.float64(right)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=0), values, rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3, 6, 7])
def test_every_pair_of_columns_meets_once_in_a_sweep(count):
    met = [
        tuple(sorted((a, int(b)))) for r in jacobi._rounds(count) for a, b in enumerate(r) if a < b
    ]
    assert sorted(met) == [(a, b) for a in range(count) for b in range(a + 1, count)]
