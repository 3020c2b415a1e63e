"""Logistic regression of features, against scikit-learn and against its own gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from unified_fm.tasks._probes import linear, regression


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    return rng.normal(size=(200, 4)) + 1.5 * np.eye(3, 4)[labels], labels


def test_probe_solves_the_regression_as_scikit_learn_does(blobs):
    features, labels = blobs
    decay = 0.1
    weights, bias, *_ = regression.fit(features, labels, 3, decay, 50)
    # Its objective is C * sum of losses + |W|^2 / 2.
    other = LogisticRegression(C=1 / (decay * len(labels)), tol=1e-9, max_iter=5000)
    other.fit(features, labels)
    np.testing.assert_allclose(weights, other.coef_.T, atol=2e-4)
    difference = bias - other.intercept_  # equal up to a constant: soft-max ignores it
    np.testing.assert_allclose(difference - difference.mean(), 0, atol=2e-4)


def test_probe_stands_where_the_gradient_is_zero(blobs):
    features, labels = blobs
    weights, bias, *_ = regression.fit(features, labels, 3, 0.01, 50)

    def loss(weights, bias):
        logs = jax.nn.log_softmax(features @ weights + bias)
        return -logs[jnp.arange(len(labels)), labels].mean() + 0.005 * (weights**2).sum()

    gradients = jax.grad(loss, argnums=(0, 1))(weights, bias)
    assert max(float(jnp.abs(g).max()) for g in gradients) < 1e-4


@pytest.fixture(scope="module")
def correlated():
    """(features f[1200 24], labels): standardised, of condition 1e4, told apart by weak ones."""
    rng = np.random.default_rng(1)
    turn = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    hidden = rng.normal(size=(1200, 24))
    features = hidden * np.geomspace(1, 1e-4, 24) @ turn
    features = (features - features.mean(0)) / features.std(0)
    logits = hidden @ rng.normal(size=(24, 5)) + rng.gumbel(size=(1200, 5))
    return features, logits.argmax(1)


@pytest.mark.parametrize("decay", [1e-3, 1e-6])
def test_A9_the_probe_is_solved_on_features_that_are_nearly_dependent(correlated, decay):
    features, labels = correlated
    found = regression.fit(features[:400], labels[:400], 5, decay, 100)
    assert found.distance <= 1e-6
    other = LogisticRegression(
        C=1 / (decay * 400), solver="newton-cg", tol=1e-12, max_iter=10_000
    ).fit(features[:400], labels[:400])
    size = np.abs(other.coef_).max()
    np.testing.assert_allclose(found.weights / size, other.coef_.T / size, atol=2e-6)
    guesses = (features[400:] @ found.weights + found.bias).argmax(1)
    np.testing.assert_array_equal(guesses, other.predict(features[400:]))


def test_A9_a_fit_that_is_not_solved_says_how_far_it_may_be(correlated):
    features, labels = correlated
    early, solved = (regression.fit(features, labels, 5, 1e-3, steps) for steps in (2, 100))
    off = np.linalg.norm(early.weights - solved.weights) / np.linalg.norm(early.weights)
    assert 1e-6 < off <= early.distance
    assert solved.solved and not early.solved


@pytest.fixture(scope="module")
def drawn():
    """(features f[1000 64], labels of 5 classes): far from 0, and not quite to be told apart."""
    rng = np.random.default_rng(2)
    hidden = rng.normal(size=(1000, 64))
    logits = hidden @ rng.normal(size=(64, 5)) / 3 + rng.gumbel(size=(1000, 5))
    return (3 + hidden * np.geomspace(3, 0.1, 64)).astype(np.float32), logits.argmax(1)


@pytest.mark.parametrize("c", [1e-3, 100.0])
def test_lbfgs_reaches_the_loss_of_scikit_learn(drawn, c):
    features, labels = drawn
    decay = 1 / (c * len(labels))
    found = regression.descend(regression.Data(features, labels, 5), decay, 1000)
    # Its own L-BFGS takes thousands of steps on features that are far from 0.
    other = LogisticRegression(C=c, solver="newton-cg", tol=1e-6, max_iter=300)
    other.fit(features.astype(float), labels)
    ours = regression.loss(features, labels, found.weights, found.bias, decay)
    theirs = regression.loss(features, labels, other.coef_.T, other.intercept_, decay)
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert found.steps < 1000


def test_a_start_nearby_takes_fewer_steps_to_the_same_place(drawn):
    data = regression.Data(*drawn, 5)
    near = regression.descend(data, 1.1e-3, 1000)
    cold, warm = (regression.descend(data, 1e-3, 1000, start) for start in (None, near))
    assert warm.steps < cold.steps
    np.testing.assert_allclose(warm.weights, cold.weights, atol=1e-4)


def test_blocks_of_rows_change_nothing(drawn, monkeypatch):
    whole = regression.descend(regression.Data(*drawn, 5), 1e-2, 1000)
    monkeypatch.setattr(regression, "_BLOCK", 64 * 300)  # 300, 300, 300, 100 rows
    parts = regression.descend(regression.Data(*drawn, 5), 1e-2, 1000)
    np.testing.assert_allclose(parts.weights, whole.weights, atol=1e-5)


def test_loss_counts_weights_and_not_the_bias():
    features, labels = np.array([[1.0], [-1.0]]), np.array([0, 1])
    weights, bias = np.array([[2.0, 0.0]]), np.array([5.0, 5.0])
    entropy = np.log(1 + np.exp(-2))
    assert regression.loss(features, labels, weights, bias, 0.1) == pytest.approx(entropy + 0.2)
    with pytest.raises(ValueError, match="decay is 0; it must be above 0"):
        regression.loss(features, labels, weights, bias, 0)


def right(said, truth):
    return float((said == truth).mean())


def test_C_is_swept_coarsely_and_then_around_the_best():
    found = {}
    for exponent in linear._exponents(found):
        found[exponent] = linear.Tried(10.0**exponent, -abs(exponent - 0.9), 1)
    assert [*found] == [-6, -4, -2, 0, 2, 4, 6, -1, 1, 0.5, 1.5, 0.75, 1.25, 0.875, 1.125]
    assert linear.best_of(found) == 0.875
    equal = {e: linear.Tried(10.0**e, 0.5, 1) for e in (2.0, -4.0, 0.0)}
    assert linear.best_of(equal) == -4.0  # the strongest penalty


def test_the_probe_is_fitted_again_to_training_and_validation(drawn):
    features, labels = drawn
    train, validation = (features[:600], labels[:600]), (features[600:900], labels[600:900])
    told = []
    found = linear.probe(train, validation, 5, right, told=told.append)
    assert sorted(one.c for one in told) == [one.c for one in found.tried]
    assert max(one.score for one in found.tried) == next(
        one.score for one in found.tried if one.c == found.c
    )
    both = regression.Data(features[:900], labels[:900], 5)
    expected = regression.descend(both, 1 / (found.c * 900), 1000)
    np.testing.assert_allclose(found.fit.weights, expected.weights, atol=1e-3)
    assert right(found.logits(features[900:]).argmax(1), labels[900:]) > 0.5  # chance: 0.2


def test_standardised_features_are_those_of_all_that_is_fitted(drawn):
    features, labels = drawn
    scaled = features * np.geomspace(1, 1000, 64).astype(np.float32) + 7
    found = [
        linear.probe((x[:600], labels[:600]), (x[600:], labels[600:]), 5, right, standardise=True)
        for x in (features, scaled)
    ]
    np.testing.assert_allclose(found[1].deviation, scaled.std(0), rtol=1e-4)
    np.testing.assert_allclose(found[0].logits(features), found[1].logits(scaled), atol=0.05)


def test_validation_rows_of_classes_that_training_lacks_are_not_learnt_from(drawn):
    features, labels = drawn
    known = labels < 4
    train = features[:600][known[:600]], labels[:600][known[:600]]
    found = linear.probe(train, (features[600:], labels[600:]), 4, right)
    assert found.fit.weights.shape == (64, 4)
