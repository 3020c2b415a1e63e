import numpy as np
import pytest

from tests.evaluators import worlds
from unified_fm.evaluators import mlm


def test_unigram_adds_one_to_every_count():
    np.testing.assert_allclose(np.exp(mlm.unigram(np.array([3, 0, 1]))), [4 / 7, 1 / 7, 2 / 7])


def test_cross_entropy_stands_beside_the_unigram_of_the_training_text():
    tokenizer = worlds.make_tokenizer()
    evaluator = mlm.Evaluator(
        source="tests.evaluators.worlds:eight",
        train_source="tests.evaluators.worlds:duplicates",
        options={"max_len": 8, "mask_rate": 1.0, "max_masked": 6, "special_tokens": "never"},
        tokenizer=tokenizer,
        batch_size=3,
    )
    entropy, accuracy = evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {})
    # The fake head gives every token the same logit.
    assert entropy.value == pytest.approx(np.log(tokenizer.vocab_size))
    assert entropy.better == "lower"

    # All tokens of "a COLOUR square" are masked. The eight training captions have 24 tokens: 8 "a",
    # 8 "square", and two of each of the first four colours; the others were never seen.
    total = 24 + tokenizer.vocab_size
    logs = np.log([9 / total, 9 / total, 3 / total, 1 / total])
    expected = -(8 * logs[0] + 8 * logs[1] + 4 * logs[2] + 4 * logs[3]) / 24
    assert entropy.chance == pytest.approx(expected)
    assert accuracy.chance == pytest.approx(1 / 3)  # always "a", or always "square"


def test_what_is_counted_is_spread_over_a_source_in_order():
    evaluator = mlm.Evaluator(
        source="tests.evaluators.worlds:eight",
        train_source="tests.evaluators.worlds:eight",
        train_examples=4,
        tokenizer=worlds.make_tokenizer(),
    )
    assert [i for i, _ in evaluator.records(evaluator.train_source, 4)] == [0, 2, 4, 6]
    assert [i for i, _ in evaluator.records(evaluator.train_source, 99)] == list(range(8))
