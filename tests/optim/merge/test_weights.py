"""Merges by constant or learnt weights: static, alternate, uncertainty, gradnorm, dwa."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.optim.merge import examples
from unified_fm.optim.merge import alternate, dwa, gradnorm, static, uncertainty

GROUPS = ("image", "text")
ROWS = examples.gradients(2)
SHARED = ROWS[:, : examples.SHARED]


def weights_of(merged):
    """The two factors of a merged shared gradient."""
    return np.linalg.lstsq(SHARED.T, merged, rcond=None)[0]


def train(merge, losses):
    """Updates with each row of losses; returns the weights of each and the last state."""
    update = jax.jit(merge.update)
    state, weights = merge.init(examples.tree(ROWS[0])), []
    for row in losses:
        named = dict(zip(GROUPS, jnp.float32(row), strict=True))
        merged, state = update(examples.grads_of(ROWS), state, losses=named)
        weights.append(weights_of(examples.flat(merged)[: examples.SHARED]))
    return np.array(weights), state


def test_static_weights():
    merge = static.merge(groups=GROUPS, shared=examples.RULE, weights={"text": 3.0, "image": 0.5})
    merged, _ = examples.run(merge, ROWS)
    np.testing.assert_allclose(merged, 0.5 * SHARED[0] + 3 * SHARED[1], rtol=1e-5, atol=1e-6)


def test_alternate_follows_its_order():
    merge = alternate.merge(groups=GROUPS, shared=examples.RULE)
    weights, state = train(merge, [[0, 0]] * 3)
    np.testing.assert_allclose(weights, [[1, 0], [0, 1], [1, 0]], atol=1e-6)
    assert int(state.count) == 3
    order = ("image", "image", "text")
    merge = alternate.merge(groups=GROUPS, shared=examples.RULE, order=order)
    weights, _ = train(merge, [[0, 0]] * 6)
    np.testing.assert_allclose(weights[:, 0], [1, 1, 0, 1, 1, 0], atol=1e-6)


def test_uncertainty_weights_descend_the_loss_and_end_at_one_over_it():
    """The minimum over s of exp(-s) L / 2 + s / 2 is s = log L: weights 1 / (2 L)."""
    merge = uncertainty.merge(groups=GROUPS, shared=examples.RULE, learning_rate=0.05)
    weights, state = train(merge, [[4.0, 0.25]] * 300)
    np.testing.assert_allclose(weights[0], [0.5, 0.5], rtol=1e-4)
    np.testing.assert_allclose(weights[-1], [0.125, 2.0], rtol=1e-3)
    np.testing.assert_allclose(state.log_variance, np.log([4.0, 0.25]), atol=1e-3)


def test_gradnorm_slope_is_that_of_its_loss():
    norms, share, logits = jnp.array([2.0, 0.3, 1.0]), jnp.array([0.9, 0.5, 1.3]), jnp.arange(3.0)

    def loss(logits):
        weighted = 3 * jax.nn.softmax(logits) * norms
        target = jax.lax.stop_gradient(weighted.mean() * (share / share.mean()) ** 1.5)
        return jnp.abs(weighted - target).sum()

    slope = gradnorm.slope(3 * jax.nn.softmax(logits), norms, share, alpha=1.5)
    np.testing.assert_allclose(slope, jax.grad(loss)(logits), rtol=1e-5, atol=1e-6)


def test_gradnorm_evens_out_the_norms_and_favours_who_lags():
    norms = np.linalg.norm(SHARED, axis=1)
    merge = gradnorm.merge(groups=GROUPS, shared=examples.RULE, alpha=0.0, learning_rate=0.05)
    weights, _ = train(merge, [[1.0, 1.0]] * 200)
    np.testing.assert_allclose(weights[0], [1.0, 1.0], rtol=1e-4)
    np.testing.assert_allclose(weights.sum(1), 2.0, rtol=1e-4)
    np.testing.assert_allclose(weights[-1] * norms, np.mean(weights[-1] * norms), rtol=0.1)
    # Text has fallen to half, image not at all: at the fixed point w n is as r^alpha, 4/3 : 2/3.
    merge = gradnorm.merge(groups=GROUPS, shared=examples.RULE, alpha=1.0, learning_rate=0.05)
    weights, state = train(merge, [[3.0, 8.0]] + [[3.0, 4.0]] * 200)
    np.testing.assert_array_equal(state.first, [3.0, 8.0])
    ratio = weights[-1] * norms
    np.testing.assert_allclose(ratio[0] / ratio[1], 2.0, rtol=0.2)


def test_dwa_compares_the_last_two_windows():
    losses = np.random.default_rng(0).uniform(0.5, 2.0, size=(9, 2))
    merge = dwa.merge(groups=GROUPS, shared=examples.RULE, window=3, temperature=2.0)
    weights, _ = train(merge, losses)
    np.testing.assert_allclose(weights[:5], 1.0, rtol=1e-4)
    for step in range(5, 9):
        rate = losses[step - 2 : step + 1].mean(0) / losses[step - 5 : step - 2].mean(0)
        expected = 2 * np.exp(rate / 2) / np.exp(rate / 2).sum()
        np.testing.assert_allclose(weights[step], expected, rtol=1e-4)
