import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.evaluators import worlds
from unified_fm.evaluators import knn, linear_probe


def test_votes_are_weighted_by_similarity():
    known = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])
    labels = np.array([0, 1, 1])
    asked = np.array([[2.0, 0.0], [0.5, 0.5]])  # lengths do not matter
    # First: cosines 1, .6, .6. At temperature 1 two votes of e^.6 beat e^1; at .1 they do not.
    assert knn.vote(known, labels, asked, 3, 1.0).tolist() == [1, 1]
    assert knn.vote(known, labels, asked, 3, 0.1).tolist() == [0, 1]
    assert knn.vote(known, labels, asked, 1, 1.0).tolist() == [0, 1]


@pytest.fixture(scope="module")
def blobs():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    return rng.normal(size=(200, 4)) + 1.5 * np.eye(3, 4)[labels], labels


def test_probe_solves_the_regression_as_scikit_learn_does(blobs):
    features, labels = blobs
    decay = 0.1
    weights, bias = linear_probe.fit(features, labels, 3, decay, 2000)
    # Its objective is C * sum of losses + |W|^2 / 2.
    other = LogisticRegression(C=1 / (decay * len(labels)), tol=1e-9, max_iter=5000)
    other.fit(features, labels)
    np.testing.assert_allclose(weights, other.coef_.T, atol=2e-4)
    difference = bias - other.intercept_  # equal up to a constant: soft-max ignores it
    np.testing.assert_allclose(difference - difference.mean(), 0, atol=2e-4)


def test_probe_stands_where_the_gradient_is_zero(blobs):
    features, labels = blobs
    weights, bias = linear_probe.fit(features, labels, 3, 0.01, 2000)

    def loss(weights, bias):
        logs = jax.nn.log_softmax(features @ weights + bias)
        return -logs[jnp.arange(len(labels)), labels].mean() + 0.005 * (weights**2).sum()

    gradients = jax.grad(loss, argnums=(0, 1))(weights, bias)
    assert max(float(jnp.abs(g).max()) for g in gradients) < 1e-4


@pytest.mark.parametrize("module", [knn, linear_probe])
def test_accuracy_stands_beside_the_majority_class(module):
    tokenizer = worlds.make_tokenizer()
    evaluator = module.Evaluator(
        source="tests.evaluators.worlds:labelled",
        train_source="tests.evaluators.worlds:labelled",
        options={"size": worlds.SIZE, "patch_size": 4},
        tokenizer=tokenizer,
        batch_size=5,
    )
    (metric,) = evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {})
    assert metric.value == 1.0
    assert (metric.chance, metric.chance_is) == (0.25, "majority of 4 classes")
