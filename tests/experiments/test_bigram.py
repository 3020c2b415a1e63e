"""The floor of masked words: a two-sided bigram model against counts by hand."""

import numpy as np
import pytest

from experiments import bigram

# 0 and 1 stand for cls and sep; the words are 2, 3 and 4.
SPECIAL = np.array([True, True, False, False, False])
ROWS = [np.array([0, 2, 3, 2, 1], np.int32), np.array([0, 2, 4, 1], np.int32)]


def test_neighbours_are_counted():
    found = bigram.count(ROWS, SPECIAL)
    # cls 2 twice; 2 3, 3 2, 2 4 once each; sep after 2 and after 4.
    expected = [[0, 0, 2, 0, 0], [0] * 5, [0, 1, 0, 1, 1], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0]]
    np.testing.assert_array_equal(found.pairs, expected)
    # 2 three times, 3 and 4 once, and one more for each of the five.
    np.testing.assert_allclose(found.words, np.array([1, 1, 4, 2, 2]) / 10)


def test_a_word_is_told_from_both_sides():
    model = bigram.count(ROWS, SPECIAL)
    words = model.words
    # After 2 stand 3 and 4 once each (and sep, which is no word); before 2 stands 3 once.
    k, a, c = model.smoothing, model.neighbours, model.prior
    left = (np.array([0, 0, 0, 1, 1]) + k * words) / (2 + k)
    right = (np.array([0, 0, 0, 1, 0]) + k * words) / (1 + k)
    score = (left * right) ** a * words**c
    found = model.losses(bigram.Hidden(np.array([2]), np.array([2]), np.array([3])))
    assert found == pytest.approx(-np.log(score[3] / score.sum()))


def test_without_neighbours_it_is_the_unigram():
    """A token that the text never has, as the mask, says nothing."""
    special = np.append(SPECIAL, True)
    model = bigram.count(ROWS, special)
    assert model.neighbours * 2 + model.prior == 1
    found = model.losses(bigram.Hidden(*np.array([[5, 5], [5, 5], [2, 4]])))
    np.testing.assert_allclose(found, -np.log(model.words[[2, 4]]))


def test_its_numbers_are_chosen_by_words_that_it_has_not_counted():
    rng = np.random.default_rng(0)
    # Each word is followed by the next one, but for a tenth.
    walk = np.cumsum(np.where(rng.random(4000) < 0.9, 1, rng.integers(2, 20, 4000))) % 20
    rows = [np.array(row + 2, np.int32) for row in walk.reshape(-1, 20)]
    model = bigram.count(rows[:150], np.arange(22) < 2)
    apart = np.stack(rows[150:])
    hidden = bigram.Hidden(*(apart[:, i : i + 18].ravel() for i in (0, 2, 1)))
    before, after = model.losses(hidden).mean(), model.fitted(hidden).losses(hidden).mean()
    assert after < 0.8 * before
    # Both sides agree in four fifths of all cases, and then it is sure.
    assert after == pytest.approx(0.165, abs=0.01)


def test_the_places_are_those_that_are_hidden():
    arrays = {
        "text_masked": np.array([[0, 9, 7, 9, 1], [0, 9, 6, 1, 8]]),
        "masked_positions": np.array([[1, 3], [1, 0]]),
        "masked_ids": np.array([[4, 5], [3, -100]]),
    }
    found = bigram.hidden(arrays)
    np.testing.assert_array_equal(found.left, [0, 7, 0])
    np.testing.assert_array_equal(found.right, [7, 1, 6])
    np.testing.assert_array_equal(found.word, [4, 5, 3])
