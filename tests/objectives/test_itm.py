"""itm: hard negatives that are never the match, never padding, never NaN."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.tiny_xfm import jit
from tests.objectives import stubs
from unified_fm.objectives.itm import Objective, draw

EVERY = np.ones((4, 4), bool)
OTHERS = EVERY & ~np.eye(4, dtype=bool)


FIXED = {"negatives_image": jnp.array([1, 2, 3, 0]), "negatives_text": jnp.array([3, 0, 1, 2])}


def draws(similarity, seen=EVERY, allowed=OTHERS, count=4000):
    """i32[count B]"""

    def many(similarity):
        keys = jax.random.split(jax.random.key(0), count)
        return jax.vmap(lambda key: draw(key, similarity, seen, allowed))(keys)

    return np.asarray(jit(many)(similarity))


def other_images(views, batch=None, **options):
    """The wrong image of each text, by its place in the group."""
    return stubs.run(Objective(**options), views, batch)[1][1]["rows"].tolist()


def test_negatives_are_drawn_by_softmax_without_the_match():
    similarity = np.random.default_rng(0).normal(size=(4, 4))
    found = draws(similarity)
    chances = np.exp(similarity) / np.exp(similarity).sum(1, keepdims=True) + 1e-5
    np.fill_diagonal(chances, 0)
    chances /= chances.sum(1, keepdims=True)
    counted = np.stack([np.bincount(column, minlength=4) for column in found.T]) / len(found)
    np.testing.assert_allclose(counted, chances, atol=0.03)
    assert (counted.diagonal() == 0).all()


def test_a_certain_match_leaves_its_negatives_uniform():
    """Where softmax underflows, the 1e-5 decides."""
    found = draws(1000 * np.eye(4), count=900)
    counted = np.bincount(found[:, 0], minlength=4) / len(found)
    np.testing.assert_allclose(counted, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.06)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_row_13_not_finite_similarities_draw_uniformly_and_never_the_match(bad):
    found = draws(np.full((4, 4), bad), count=900)
    counted = np.bincount(found[:, 2], minlength=4) / len(found)
    np.testing.assert_allclose(counted, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.06)


def test_three_pairs_per_row_with_fixed_negatives():
    net, views, batch = stubs.Net(), stubs.make_views(), stubs.make_batch() | FIXED
    batch["text_mask"] = jnp.arange(4)[:, None] >= jnp.arange(5)  # tells the rows apart
    output, [own, other_image, other_text] = stubs.run(Objective(), views, batch)
    losses = []
    for row in range(4):
        pairs = [
            (row, row, 1),
            (row, batch["negatives_image"][row], 0),
            (batch["negatives_text"][row], row, 0),
        ]
        for text, image, label in pairs:
            logits = (views.text[text, 0] + views.pooled[image]) @ net.kernels[2]
            losses.append(stubs.cross_entropy(logits, label))
    assert output.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert output.denominator == 12
    assert own["rows"] is None and other_text["rows"] is None  # they look at their own image
    assert other_image["rows"].tolist() == [1, 2, 3, 0]
    for call, texts in (
        (own, [0, 1, 2, 3]),
        (other_image, [0, 1, 2, 3]),
        (other_text, [3, 0, 1, 2]),
    ):
        mask = batch["text_mask"][jnp.array(texts)]  # each brings its own
        np.testing.assert_array_equal(call["text_mask"], mask)


def test_A5_parts_of_a_batch_lack_the_negatives_of_the_whole():
    """Rows 0 and 2 are each other's hard negatives, and a micro-batch holds only one of them."""
    similar = jnp.array([[1, 0], [0, 1], [1, 0], [0, 1]], jnp.float32)
    views = stubs.make_views()
    views = views.replace(
        text=views.text.at[:, 0].set(jnp.pad(40 * similar, ((0, 0), (0, 2)))),
        pooled=jnp.pad(similar, ((0, 0), (0, 2))),
    )
    assert other_images(views) == [2, 3, 0, 1]
    part = stubs.rows_of(views, np.array([0, 1]))
    assert other_images(part, stubs.make_batch(2)) == [1, 0]  # easy ones
    assert Objective.accumulates is False


def test_groups_draw_only_among_themselves():
    for seed in range(3):
        views = stubs.make_views(seed=seed).replace(groups=2)
        assert other_images(views) == [1, 0, 1, 0]  # places in the group
    assert Objective.refers is True


def test_groups_do_not_depend_on_each_other():
    """The softmax of a group sees its own columns only."""
    similarity = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    seen = np.kron(np.eye(2), np.ones((2, 2))).astype(bool)
    changed = np.where(seen, similarity, 50.0)
    first, second = (draws(s, seen, seen, count=50) for s in (similarity, changed))
    np.testing.assert_array_equal(first, second)


def test_row_14_the_same_example_is_no_negative_if_asked():
    batch = stubs.make_batch() | {"example_id": jnp.array([0, 1, 0, 1])}
    for seed in range(3):
        views = stubs.make_views(seed=seed)
        found = np.array(other_images(views, batch, exclude="ids"))
        assert (found % 2 != np.arange(4) % 2).all()


def test_row_14_the_same_text_is_no_negative_if_asked():
    text = jnp.array([[0, 7, 2], [0, 8, 2], [0, 7, 2], [0, 9, 2]])
    batch = stubs.make_batch() | {"text": text}
    for seed in range(5):
        image = other_images(stubs.make_views(seed=seed), batch, exclude="texts")
        assert image[0] in (1, 3) and image[2] in (1, 3)


@pytest.mark.parametrize("exclude", ["ids", "texts"])
def test_row_14_a_batch_of_one_pair_again_and_again_has_no_negative(exclude):
    batch = stubs.make_batch() | {"example_id": jnp.zeros(4, int), "text": jnp.ones((4, 3), int)}
    output, _ = stubs.run(Objective(exclude=exclude), batch=batch)
    assert output.denominator == 4  # the matches alone
    assert np.isfinite(output.loss)


def test_padding_is_never_drawn_and_counts_nowhere():
    batch = stubs.make_batch() | {"weight": jnp.array([1.0, 0, 1, 0])}
    output, [_, call, _] = stubs.run(Objective(), batch=batch)
    assert call["rows"][[0, 2]].tolist() == [2, 0]
    assert output.denominator == 6


def test_row_13_a_batch_of_one_has_a_positive_and_no_negative():
    net, views = stubs.Net(), stubs.make_views(1)
    output, _ = stubs.run(Objective(), views, stubs.make_batch(1))
    logits = (views.text[0, 0] + views.pooled[0]) @ net.kernels[2]
    assert output.loss == pytest.approx(stubs.cross_entropy(logits, 1), rel=1e-5)
    assert output.denominator == 1


def loss_of(objective, batch, text, temperature=0.5):
    views = stubs.make_views().replace(text=text)
    return stubs.value(objective, stubs.Net(temperature=temperature), views, batch).loss


def test_row_13_a_batch_of_padding_costs_nothing():
    batch = stubs.make_batch() | {"weight": jnp.zeros(4)}
    loss = functools.partial(loss_of, Objective(stop_text_gradient=False), batch)
    value, gradient = stubs.gradient(loss, stubs.make_views().text)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize(("options", "moves"), [({}, False), ({"stop_text_gradient": False}, True)])
def test_itm_moves_the_text_only_if_asked_to(options, moves):
    loss = functools.partial(loss_of, Objective(**options), stubs.make_batch())
    assert stubs.gradient(loss, stubs.make_views().text)[1].any() == moves


def test_sampling_has_no_gradient():
    """The temperature only chooses; nothing flows back through the choice."""
    loss = functools.partial(loss_of, Objective(), stubs.make_batch())
    assert stubs.gradient(loss, stubs.make_views().text, 0.5, argnums=1)[1] == 0


def test_ranking_compares_a_match_with_its_own_negatives():
    net, views, batch = stubs.Net(), stubs.make_views(), stubs.make_batch() | FIXED
    output, _ = stubs.run(Objective(), views, batch)
    batch = jax.device_get(batch)
    margin = net.kernels[2][:, 1] - net.kernels[2][:, 0]
    text, image = (np.asarray(x @ margin) for x in (views.text[:, 0], views.pooled))
    wins = [
        text[a] + image[a] > text[b] + image[c]
        for a in range(4)
        for b, c in ((a, batch["negatives_image"][a]), (batch["negatives_text"][a], a))
    ]
    assert output.metrics["ranking"] == pytest.approx(np.mean(wins))
