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
    weights, bias, _ = linear_probe.fit(features, labels, 3, decay, 50)
    # Its objective is C * sum of losses + |W|^2 / 2.
    other = LogisticRegression(C=1 / (decay * len(labels)), tol=1e-9, max_iter=5000)
    other.fit(features, labels)
    np.testing.assert_allclose(weights, other.coef_.T, atol=2e-4)
    difference = bias - other.intercept_  # equal up to a constant: soft-max ignores it
    np.testing.assert_allclose(difference - difference.mean(), 0, atol=2e-4)


def test_probe_stands_where_the_gradient_is_zero(blobs):
    features, labels = blobs
    weights, bias, _ = linear_probe.fit(features, labels, 3, 0.01, 50)

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
    found = linear_probe.fit(features[:400], labels[:400], 5, decay, 100)
    assert found.distance <= 1e-6
    other = LogisticRegression(
        C=1 / (decay * 400), solver="newton-cg", tol=1e-12, max_iter=10_000
    ).fit(features[:400], labels[:400])
    size = np.abs(other.coef_).max()
    np.testing.assert_allclose(found.weights / size, other.coef_.T / size, atol=2e-6)
    guesses = (features[400:] @ found.weights + found.bias).argmax(1)
    np.testing.assert_array_equal(guesses, other.predict(features[400:]))


def test_A9_a_probe_that_is_not_solved_says_how_far_it_may_be(correlated, caplog):
    features, labels = correlated
    early, solved = (linear_probe.fit(features, labels, 5, 1e-3, steps) for steps in (2, 100))
    off = np.linalg.norm(early.weights - solved.weights) / np.linalg.norm(early.weights)
    assert 1e-6 < off <= early.distance
    evaluator = probe_of(linear_probe, steps=1)
    list(evaluator.run(worlds.Apply(worlds.Oracle(evaluator.tokenizer)), {}))
    assert "after 1 steps the weights may be" in caplog.text
    with pytest.raises(ValueError, match="decay is 0; it must be above 0"):
        probe_of(linear_probe, decay=0)


def probe_of(module, **options):
    return module.Evaluator(
        source="tests.evaluators.worlds:labelled",
        train_source="tests.evaluators.worlds:labelled",
        options={"size": worlds.SIZE, "patch_size": 4},
        tokenizer=worlds.make_tokenizer(),
        batch_size=5,
        **options,
    )


@pytest.mark.parametrize("module", [knn, linear_probe])
def test_accuracy_stands_beside_the_majority_class(module):
    evaluator = probe_of(module)
    (metric,) = evaluator.run(worlds.Apply(worlds.Oracle(evaluator.tokenizer)), {})
    assert metric.value == 1.0
    assert (metric.chance, metric.chance_is) == (0.25, "majority of 4 classes")


@pytest.mark.parametrize("module", [knn, linear_probe])
def test_D11_work_without_the_model_gives_signs_of_life(module, monkeypatch):
    monkeypatch.setattr(knn, "_AT_ONCE", 3)
    evaluator, signs = probe_of(module), []
    evaluator.passes.progress = lambda: signs.append(1)
    apply = worlds.Apply(worlds.Oracle(evaluator.tokenizer))

    def asked(*args, **kw):
        signs.clear()  # what comes after the last call of the model is host work alone
        return apply(*args, **kw)

    (metric,) = evaluator.run(asked, {})
    assert metric.value == 1.0
    assert len(signs) > 3


def test_D11_decoding_held_out_data_gives_a_sign_of_life_for_each_record():
    evaluator, signs = probe_of(knn), []
    evaluator.passes.progress = lambda: signs.append(1)
    evaluator.load(count=10)
    assert len(signs) == 10
