"""Merges that solve a small problem, against generic solvers in float64 and their closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

from tests.optim.merge import examples
from unified_fm.optim.merge import aligned, cagrad, imtl_g, mgda, nash

counts = pytest.mark.parametrize("count", [2, 3, 5])


def problems(count):
    """Gradients f64[count 36] of several runs: from opposed to nearly parallel, and of any norm."""
    rows = []
    for seed in range(6):
        cosine = [-0.95, -0.5, 0.0, 0.3, 0.8, 0.97][seed]
        found = examples.gradients(count, seed=seed, cosine=cosine)[:, : examples.SHARED]
        if count > 2 and seed % 2:
            found[2] -= 0.7 * found[0] + 0.4 * found[1]
        rows.append(found)
    return rows


@functools.cache
def compiled(weights):
    return jax.jit(jax.vmap(weights))


def solved(weights, gradients, *arguments):
    """The merged gradient of each run, the weights computed in float32 from the dot products."""
    grams = jnp.asarray([g @ g.T for g in gradients], jnp.float32)
    found = compiled(weights)(grams, *map(jnp.float32, arguments))
    return [w @ g for w, g in zip(np.asarray(found, np.float64), gradients, strict=True)]


def on_simplex(objective, count):
    """Minimises a convex function over weights >= 0 that sum to 1."""
    best = None
    for start in [np.full(count, 1 / count), *np.eye(count)]:
        found = scipy.optimize.minimize(
            objective,
            0.9 * start + 0.1 / count,
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        best = found if best is None or found.fun < best.fun else best
    return best.x


@counts
def test_mgda_is_the_shortest_convex_combination(count):
    gradients = problems(count)
    for g, found in zip(gradients, solved(mgda.weights, gradients), strict=True):
        weights = on_simplex(lambda w, g=g: np.sum((w @ g) ** 2), count)
        np.testing.assert_allclose(found, weights @ g, atol=3e-4)
        # The condition of the minimum: no group's gradient goes against it.
        assert (g @ found).min() >= (1 - 1e-3) * (found @ found)


@counts
def test_cagrad_is_the_best_for_the_worst_group_within_the_ball(count):
    gradients = [g for g in problems(count) for _ in range(2)]
    conflicts = np.tile([0.4, 0.9], len(gradients) // 2)
    merged = solved(cagrad.weights, gradients, conflicts)
    for g, conflict, found in zip(gradients, conflicts, merged, strict=True):
        mean = g.mean(0)
        radius = conflict * np.linalg.norm(mean)
        weights = on_simplex(
            lambda w, g=g, mean=mean, radius=radius: (
                w @ g @ mean + radius * np.sqrt(np.sum((w @ g) ** 2) + 1e-30)
            ),
            count,
        )
        toward = weights @ g
        expected = mean + radius * toward / np.linalg.norm(toward)
        np.testing.assert_allclose(found, expected, atol=3e-3)
        # The primal problem, which the dual solves: the worst group's progress in the ball.
        assert (g @ found).min() >= (g @ expected).min() - 1e-4 * (mean @ mean)
        assert np.linalg.norm(found - mean) <= radius * (1 + 1e-4)


@counts
def test_imtl_g_projects_equally_on_every_direction(count):
    gradients = problems(count)
    for g, found in zip(gradients, solved(imtl_g.weights, gradients), strict=True):
        units = g / np.linalg.norm(g, axis=1, keepdims=True)
        # The published formula: alpha = g1 U' (D U')^-1, for all but the first.
        spread, gaps = units[0] - units[1:], g[0] - g[1:]
        alpha = g[0] @ spread.T @ np.linalg.inv(gaps @ spread.T)
        alpha = np.concatenate([[1 - alpha.sum()], alpha])
        np.testing.assert_allclose(found, alpha @ g, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(units @ found, (units @ found).mean(), rtol=1e-3)


@counts
def test_nash_solves_the_bargaining_equation(count):
    gradients = problems(count)
    for g, found in zip(gradients, solved(nash.weights, gradients), strict=True):
        gram = g @ g.T
        own = np.linalg.lstsq(g.T, found, rcond=None)[0]
        assert (own > 0).all()
        np.testing.assert_allclose(own * (gram @ own), 1.0, rtol=2e-3)
        # G a = 1 / a has one positive solution; Newton finds it from a start that is 30% off.
        newton = scipy.optimize.root(lambda a, gram=gram: gram @ a - 1 / a, 1.3 * own, tol=1e-13)
        assert newton.success and (newton.x > 0).all()
        np.testing.assert_allclose(found, newton.x @ g, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(np.linalg.norm(found), np.sqrt(count), rtol=1e-3)


@counts
def test_aligned_makes_all_singular_values_the_smallest(count):
    gradients = problems(count)
    for g, found in zip(gradients, solved(aligned.weights, gradients), strict=True):
        left, values, right = np.linalg.svd(g, full_matrices=False)
        balanced = values[-1] * left @ right  # the same directions, all values equal
        np.testing.assert_allclose(found, balanced.sum(0), atol=3e-3)
        root = np.linalg.inv(scipy.linalg.sqrtm(g @ g.T).real)  # sqrt(lambda_min) G^(-1/2) 1
        np.testing.assert_allclose(found, values[-1] * root.sum(0) @ g, atol=3e-3)


@counts
def test_A9_aligned_of_gradients_of_very_different_length(count):
    """At a ratio of about 1,000 the short one was taken for a missing one: a jump by 17 times."""
    ratios = 10.0 ** np.arange(0, 8.5, 0.5)
    gradients = []
    for seed, ratio in enumerate(ratios):
        g = examples.gradients(count, seed=seed, cosine=0.6)[:, : examples.SHARED]
        lengths = np.geomspace(1, 1 / ratio, count)
        gradients.append(lengths[:, None] * g / np.linalg.norm(g, axis=1, keepdims=True))
    found = solved(aligned.weights, gradients)
    for ratio, g, merged in zip(ratios, gradients, found, strict=True):
        left, values, right = np.linalg.svd(g, full_matrices=False)
        expected = (values[-1] * left @ right).sum(0)
        error = np.linalg.norm(merged - expected) / np.linalg.norm(expected)
        assert error < 1e-4, ratio


def test_A9_aligned_counts_directions_whatever_the_lengths_are():
    """Two parallel gradients and a third of another direction, a hundred times shorter."""
    a, b = examples.gradients(2, cosine=0.3)[:, : examples.SHARED]
    [found] = solved(aligned.weights, [np.stack([a, 0.5 * a, 0.01 * b])])
    left, values, right = np.linalg.svd(np.stack([a, 0.5 * a, 0.01 * b]), full_matrices=False)
    expected = (values[1] * left[:, :2] @ right[:2]).sum(0)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("module", [mgda, cagrad, imtl_g, nash, aligned])
@pytest.mark.parametrize("count", [2, 3])
def test_equal_gradients(module, count):
    """Nobody disagrees: the mean for most, the sum for Aligned-MTL, norm sqrt(K) for Nash-MTL."""
    row = examples.gradients(1)[0][: examples.SHARED]
    arguments = [[0.5]] if module is cagrad else []
    found = solved(module.weights, [np.stack([row] * count)], *arguments)
    factor = {aligned: count, cagrad: 1.5, nash: np.sqrt(count) / np.linalg.norm(row)}
    np.testing.assert_allclose(found[0], factor.get(module, 1.0) * row, rtol=1e-3)


def test_two_groups_by_hand():
    """g1 = (3, 0), g2 = (0, 4)."""
    g = np.array([[3.0, 0.0], [0.0, 4.0]])
    expected = {
        mgda: [1.92, 1.44],  # the foot of the height on the hypotenuse: 3 * 16/25, 4 * 9/25
        imtl_g: [12 / 7, 12 / 7],  # n1 n2 / (n1 + n2) on each axis
        nash: [1.0, 1.0],  # (u1 + u2) / sqrt(1 + 0)
        aligned: [3.0, 3.0],  # both singular values become the smallest, 3
    }
    for module, values in expected.items():
        np.testing.assert_allclose(solved(module.weights, [g])[0], values, rtol=1e-6)


def test_cagrad_of_opposite_gradients_follows_the_mean():
    """3 and -1: the mean 1 hurts the second, which gets half of it back and no more."""
    found = solved(cagrad.weights, [np.array([[3.0, 0.0], [-1.0, 0.0]])], [0.5])
    np.testing.assert_allclose(found[0], [0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    ("module", "options", "factor"),
    [
        (mgda, {}, 1.0),
        (mgda, {"reduction": "sum"}, 2.0),
        (cagrad, {}, 1 / 1.25),
        (cagrad, {"rescale": "none"}, 1.0),
        (cagrad, {"rescale": "linear", "reduction": "sum"}, 2 / 1.5),
    ],
)
def test_scale_options(module, options, factor):
    rows = examples.gradients(2, cosine=-0.3)
    merge = module.merge(groups=examples.names(2), shared=examples.RULE, **options)
    arguments = [[0.5]] if module is cagrad else []
    plain = solved(module.weights, [rows[:, : examples.SHARED]], *arguments)[0]
    np.testing.assert_allclose(examples.run(merge, rows)[0], factor * plain, rtol=1e-4, atol=1e-6)


def test_mgda_normalised_weights_apply_to_the_gradients_as_they_are():
    rows = examples.gradients(2, cosine=-0.3)
    g, losses = rows[:, : examples.SHARED], np.array([1.0, 3.0])
    norms = np.linalg.norm(g, axis=1)
    for how, size in {"l2": norms, "loss": losses, "loss+": norms * losses}.items():
        unit = g / size[:, None]
        weights = on_simplex(lambda w, unit=unit: np.sum((w @ unit) ** 2), 2)
        merge = mgda.merge(groups=examples.names(2), shared=examples.RULE, normalise=how)
        merged, _ = examples.run(merge, rows, losses=examples.losses_of(losses))
        np.testing.assert_allclose(merged, weights @ g, atol=1e-3, err_msg=how)
