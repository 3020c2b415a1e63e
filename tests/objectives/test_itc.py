"""itc: the match among all images for a text, and among all texts for an image."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives import stubs
from unified_fm.objectives.itc import Objective


def run(objective, views, batch):
    return stubs.run(objective, views, batch)[0]


def similarities(views, temperature=0.5):
    return np.asarray(views.text[:, 0] @ views.pooled.T / temperature)


def expected(similarity, targets):
    """Both directions, one row after the other; targets: columns that belong to each row."""
    losses = []
    for logits in (similarity, similarity.T):
        for row, columns in zip(logits, targets, strict=True):
            losses.append(np.mean([stubs.cross_entropy(row, column) for column in columns]))
    return np.mean(losses)


def test_cross_entropy_of_the_diagonal_in_both_directions():
    views = stubs.make_views()
    output = run(Objective(), views, {})
    assert output.loss == pytest.approx(
        expected(similarities(views), [[0], [1], [2], [3]]), rel=1e-5
    )
    assert output.denominator == 4


def test_row_14_rows_of_one_example_share_the_target():
    views = stubs.make_views()
    batch = {"example_id": jnp.array([7, 5, 7, 6])}
    found = run(Objective(targets="ids"), views, batch).loss
    targets = [[0, 2], [1], [0, 2], [3]]
    assert found == pytest.approx(expected(similarities(views), targets), rel=1e-5)


@pytest.mark.parametrize("targets", ["row", "ids", "texts"])
def test_padded_rows_are_nobodys_negatives(targets):
    views = stubs.make_views()
    batch = stubs.make_batch() | {"text": jnp.array([[5, 6], [5, 6], [5, 6], [7, 6]])}
    real = jnp.array([0, 2, 3])
    objective = Objective(targets=targets)
    alone = run(objective, stubs.rows_of(views, real), stubs.rows_of(batch, real))
    found = run(objective, views, batch | {"weight": jnp.array([1.0, 0, 1, 1])})
    assert found.loss == pytest.approx(alone.loss, rel=1e-6)
    assert found.metrics["accuracy"] == alone.metrics["accuracy"]
    assert found.denominator == 3


def test_gradient_scale_scales_the_features_gradient_and_not_the_temperatures():
    views = stubs.make_views()

    def loss(scale, pooled, temperature):
        net = stubs.Net(temperature=temperature)
        return Objective(gradient_scale=scale)(net, views.replace(pooled=pooled), {}).loss

    def grads(scale):
        args = views.pooled, 0.5
        return stubs.gradient(functools.partial(loss, scale), *args, argnums=(0, 1))

    whole, (features, temperature) = grads(1.0)
    same, (eighth, own) = grads(0.125)
    assert whole == pytest.approx(same, rel=1e-6)
    np.testing.assert_allclose(eighth, features / 8, rtol=1e-4, atol=1e-7)
    assert own == pytest.approx(temperature, rel=1e-4)


def test_a_stopped_text_moves_images_alone_and_its_projection():
    """One kernel projects texts, as `text_proj` does: it learns, what it projects does not."""
    views = stubs.make_views()

    class Net(stubs.Net):
        def text_feature(self, views):
            return views.text[:, 0] @ self.kernel

    def loss(objective, text, pooled, kernel):
        net = Net()
        net.kernel = kernel
        return objective(net, views.replace(text=text, pooled=pooled), {}).loss

    def grads(stop):
        made = functools.partial(loss, Objective(stop_text_gradient=stop))
        return stubs.gradient(made, views.text, views.pooled, jnp.eye(4), argnums=(0, 1, 2))

    whole, (text, *others) = grads(False)
    same, (still, *found) = grads(True)
    assert text.any()
    assert not still.any()
    assert whole == same
    for got, want in zip(found, others, strict=True):
        assert got.any()
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_accuracy_is_of_the_best_image_for_each_text():
    views = stubs.make_views()
    best = similarities(views).argmax(1)
    found = run(Objective(), views, {}).metrics["accuracy"]
    assert found == pytest.approx((best == np.arange(4)).mean())


def test_it_says_that_micro_batches_do_not_add_up():
    """Two halves have other negatives than the whole."""
    views = stubs.make_views()
    halves = [
        run(Objective(), stubs.rows_of(views, rows), {}).loss for rows in (slice(2), slice(2, 4))
    ]
    assert abs(run(Objective(), views, {}).loss - np.mean(halves)) > 0.1
    assert Objective.accumulates is False


def test_an_unknown_kind_of_target_is_refused():
    with pytest.raises(ValueError, match=r"itc.targets is 'soft'; Possible: row, ids, texts"):
        Objective(targets="soft")
