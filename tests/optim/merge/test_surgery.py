"""PCGrad and GradVac against plain loops over vectors."""

import jax
import numpy as np
import pytest

from tests.optim.merge import examples
from unified_fm.optim.merge import gradvac, pcgrad
from unified_fm.optim.merge.base import next_key


def merge_of(module, count, **options):
    return module.merge(groups=examples.names(count), shared=examples.RULE, **options)


def orders_of(state, count):
    """The random orders that the next update will use."""
    return np.asarray(pcgrad.random_orders(next_key(state.key)[1], 1, count))[0]


def pcgrad_by_loop(shared, orders):
    merged = np.zeros(examples.SHARED)
    for i, order in enumerate(orders):
        edited = shared[i].copy()
        for j in order:
            dot = edited @ shared[j]
            if j != i and dot < 0:
                edited -= dot / (shared[j] @ shared[j]) * shared[j]
        merged += edited
    return merged


def test_pcgrad_of_two_is_the_closed_form():
    rows = examples.gradients(2, cosine=-0.6)
    g1, g2 = rows[:, : examples.SHARED]
    dot = g1 @ g2
    assert dot < 0
    expected = (1 - dot / (g1 @ g1)) * g1 + (1 - dot / (g2 @ g2)) * g2
    merged, _ = examples.run(merge_of(pcgrad, 2), rows)
    np.testing.assert_allclose(merged, expected, rtol=1e-4, atol=1e-5)
    halved, _ = examples.run(merge_of(pcgrad, 2, reduction="mean"), rows)
    np.testing.assert_allclose(halved, expected / 2, rtol=1e-4, atol=1e-5)


def test_pcgrad_without_conflict_is_the_sum():
    rows = examples.gradients(2, cosine=0.2)
    merged, _ = examples.run(merge_of(pcgrad, 2), rows)
    np.testing.assert_allclose(merged, rows[:, : examples.SHARED].sum(0), rtol=1e-5, atol=1e-6)


def test_pcgrad_of_four_meets_the_others_in_random_order():
    rows = examples.gradients(4, seed=3)
    rows[0] -= rows[1] + 0.5 * rows[2] + 0.3 * rows[3]
    shared = rows[:, : examples.SHARED]
    merge = merge_of(pcgrad, 4, seed=7)
    state = merge.init(examples.tree(rows[0]))
    update = jax.jit(merge.update)
    seen = set()
    for _ in range(4):
        orders = orders_of(state, 4)
        assert (np.sort(orders, axis=1) == np.arange(4)).all()
        merged, state = update(examples.grads_of(rows), state)
        merged = examples.flat(merged)[: examples.SHARED]
        np.testing.assert_allclose(merged, pcgrad_by_loop(shared, orders), rtol=1e-3, atol=1e-4)
        seen.add(orders.tobytes())
    assert len(seen) > 1


def test_pcgrad_per_tensor_projects_each_tensor_alone():
    rows = examples.gradients(2, seed=5, cosine=-0.1)
    expected = []
    for a, b in [(0, 12), (12, 16), (16, 32), (32, 36)]:
        g1, g2 = rows[:, a:b]
        dot = min(g1 @ g2, 0.0)
        expected.append((1 - dot / (g1 @ g1)) * g1 + (1 - dot / (g2 @ g2)) * g2)
    merged, _ = examples.run(merge_of(pcgrad, 2, scope="tensor"), rows)
    np.testing.assert_allclose(merged, np.concatenate(expected), rtol=1e-4, atol=1e-5)


def gradvac_by_loop(shared, orders, target, rate):
    """One update in place of `target`; returns the edited gradients."""
    edited = shared.copy()
    for i, order in enumerate(orders):
        for j in order:
            if j == i:
                continue
            n_i, n_j = np.linalg.norm(edited[i]), np.linalg.norm(shared[j])
            cosine, wanted = edited[i] @ shared[j] / (n_i * n_j), target[i, j]
            if cosine < wanted:
                factor = n_i * (wanted * np.sqrt(1 - cosine**2) - cosine * np.sqrt(1 - wanted**2))
                edited[i] += factor / (n_j * np.sqrt(1 - wanted**2)) * shared[j]
            target[i, j] += rate * (cosine - wanted)
    return edited


@pytest.mark.parametrize(("count", "rate"), [(2, 0.5), (3, 0.1)])
def test_gradvac_lifts_the_cosine_to_its_moving_average(count, rate):
    merge = merge_of(gradvac, count, rate=rate)
    state = merge.init(examples.tree(np.zeros(examples.SIZE)))
    target, update, lifted = np.zeros((count, count)), jax.jit(merge.update), 0
    for step, cosine in enumerate([0.6, -0.5, 0.2, 0.7]):
        rows = examples.gradients(count, seed=step, cosine=cosine)
        shared = rows[:, : examples.SHARED]
        before = target.copy()
        edited = gradvac_by_loop(shared, orders_of(state, count), target, rate)
        merged, state = update(examples.grads_of(rows), state)
        merged = examples.flat(merged)[: examples.SHARED]
        np.testing.assert_allclose(merged, edited.sum(0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(state.target[0], target, atol=1e-5)
        if count == 2 and cosine < before[0, 1]:
            angle = edited[0] @ shared[1] / np.linalg.norm(edited[0]) / np.linalg.norm(shared[1])
            np.testing.assert_allclose(angle, before[0, 1], atol=1e-9)
            lifted += 1
    assert lifted or count > 2
