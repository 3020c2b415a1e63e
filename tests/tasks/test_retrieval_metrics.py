"""Retrieval: ranks, recalls and folds, by hand and by brute force."""

import itertools

import numpy as np
import pytest

from unified_fm.tasks._metrics import retrieval


def test_rank_counts_wrong_candidates_at_least_as_good_as_the_best_true_one():
    scores = np.array([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.5, 0.5, 0.5], [0.1, 0.2, 0.3]])
    positive = np.array([[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 1]], bool)
    assert retrieval.first_rank(scores, positive).tolist() == [0, 2, 2, 0]


def test_scores_that_are_no_numbers_rank_last():
    nan = np.nan
    scores = np.array([[nan, 0.0, 0.0], [nan, nan, nan], [0.0, nan, -1.0]])
    positive = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0]], bool)
    assert retrieval.first_rank(scores, positive).tolist() == [2, 2, 0]


@pytest.mark.parametrize(("matches", "k"), [(1, 1), (1, 3), (2, 1), (2, 3), (5, 1), (1, 9)])
def test_chance_recall_is_what_all_orders_give(matches, k):
    positive = np.arange(5) < matches
    hits = [positive[list(order)][:k].any() for order in itertools.permutations(range(5))]
    found = retrieval.chance_recall(np.array([matches, 0]), np.array([5, 5]), k)
    assert found.tolist() == [pytest.approx(np.mean(hits)), 0]


def test_each_query_has_its_own_best_candidates():
    scores = np.array([[9, 8, 1], [7, 2, 3], [4, 5, np.nan]])
    assert retrieval.top(scores, 1).tolist() == [[0], [0], [1]]
    assert retrieval.top(scores.T, 2).tolist() == [[0, 1], [0, 2], [1, 0]]
    assert retrieval.top(scores, 9).tolist() == [[0, 1, 2], [0, 2, 1], [1, 0, 2]]


def test_the_best_are_those_of_a_stable_sort_also_among_equals(monkeypatch):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 30)) / 7  # many ties
    scores[rng.random(scores.shape) < 0.1] = np.nan
    monkeypatch.setattr(retrieval, "_AT_ONCE", 100)  # three queries at a time
    for k in (1, 4, 29, 30):
        expected = np.argsort(-np.nan_to_num(scores, nan=-1), axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(retrieval.top(scores, k), expected)


def test_a_rank_is_told_by_a_list_of_the_best():
    assert retrieval.rank([False, True, True], None, wrong=7) == 1  # the order counts
    assert retrieval.rank([True, False], [3.0, 3.0], wrong=7) == 1  # a tie counts against it
    assert retrieval.rank([False, True, False, True], [5.0, 4.0, 4.0, 3.0], wrong=7) == 2
    assert retrieval.rank([False, False], [5.0, 4.0], wrong=7) == 7  # behind all that are wrong


def ranks_by_sorting(scores, image_of):
    """Where the first right candidate stands, of scores without ties."""
    of_images = [
        min(np.flatnonzero(image_of[np.argsort(-row)] == i)) for i, row in enumerate(scores)
    ]
    of_texts = [
        int(np.flatnonzero(np.argsort(-column) == image_of[t])[0])
        for t, column in enumerate(scores.T)
    ]
    return np.array(of_images), np.array(of_texts)


@pytest.fixture(scope="module")
def world():
    """30 images, of which some have six captions and one has a single one."""
    rng = np.random.default_rng(0)
    captions = [5, 6, 1, *rng.integers(3, 7, 27)]
    image_of = retrieval.owners([["a"] * n for n in captions])
    scores = rng.normal(size=(30, len(image_of)))
    scores[image_of, np.arange(len(image_of))] += 1
    return scores, image_of


def test_owners_are_counted_and_never_a_fifth():
    found = retrieval.owners([["a"] * 5, ["b"] * 7, ["c"]])
    assert found.tolist() == [0] * 5 + [1] * 7 + [2]


def test_ranks_are_those_of_sorting(world, monkeypatch):
    scores, image_of = world
    monkeypatch.setattr(retrieval, "_AT_ONCE", 1000)  # seven images at a time
    found = retrieval.ranks(scores, scores.T, image_of)
    for ours, expected in zip(found, ranks_by_sorting(scores, image_of), strict=True):
        np.testing.assert_array_equal(ours, expected)


def test_recalls_are_shares_of_queries_and_their_mean(world):
    scores, image_of = world
    images, texts = ranks_by_sorting(scores, image_of)
    found = retrieval.metrics(*retrieval.ranks(scores, scores.T, image_of), image_of)
    expected = {f"image_to_text/r{k}": np.mean(images < k) for k in (1, 5, 10)}
    expected |= {f"text_to_image/r{k}": np.mean(texts < k) for k in (1, 5, 10)}
    expected["mean_recall"] = np.mean(list(expected.values()))
    assert found == pytest.approx(expected, abs=1e-12)


def test_13_4_each_direction_has_its_own_candidates():
    """Cosines [[.5, .9], [.1, .2]], k = 1, ITM [[5, 1], [0, 0]], truth on the diagonal."""
    cosine, itm = np.array([[0.5, 0.9], [0.1, 0.2]]), np.array([[5.0, 1.0], [0.0, 0.0]])
    image_best, text_best = (retrieval.top(x, 1) == np.arange(2) for x in (cosine, cosine.T))
    of_images = np.where(image_best, itm, -100)
    of_texts = np.where(text_best, itm.T, -100)
    image_ranks, _ = retrieval.ranks(of_images, of_texts, np.arange(2))
    assert image_ranks[0] == 1
    union = np.where(image_best | text_best.T, itm, -100)
    assert retrieval.ranks(union, union.T, np.arange(2))[0][0] == 0  # the mistake


def test_folds_are_the_mean_of_each_alone(world):
    scores, image_of = world
    found = {
        name: s.value for name, s in retrieval.folds(scores, scores.T, image_of, size=10).items()
    }
    alone = []
    for start in (0, 10, 20):
        texts = np.flatnonzero((image_of >= start) & (image_of < start + 10))
        part = scores[start : start + 10][:, texts]
        owner = image_of[texts] - start
        alone.append(retrieval.metrics(*ranks_by_sorting(part, owner), owner))
    for name, value in found.items():
        assert value == pytest.approx(np.mean([one[name] for one in alone])), name
    with pytest.raises(ValueError, match="folds of 1000 images need as many; there are 30"):
        retrieval.folds(scores, scores.T, image_of)


def test_chance_is_what_random_scores_reach(world):
    _, image_of = world
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(100):
        scores = rng.random((30, len(image_of)))
        drawn.append(
            list(retrieval.metrics(*ranks_by_sorting(scores, image_of), image_of).values())
        )
    found = retrieval.chance(30, image_of)
    np.testing.assert_allclose(np.mean(drawn, axis=0), list(found.values()), atol=0.03)


def test_an_image_without_a_caption_is_refused():
    with pytest.raises(ValueError, match=r"1 of 3 images have no caption \(the first is row \[1\]"):
        retrieval.ranks(np.zeros((3, 2)), np.zeros((2, 3)), np.array([0, 2]))
