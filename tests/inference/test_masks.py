"""Texts with masks: both spellings, cleaned as in training, a row for each mask."""

import numpy as np
import pytest

from unified_fm.data import tokenizer as tokenizers
from unified_fm.data import tokenizer_training
from unified_fm.data.pipelines import base as pipelines
from unified_fm.data.skips import Skip
from unified_fm.inference import masks

TOKENIZER = tokenizer_training.train_wordpiece(
    ["a square on it"] * 3, 60, ["red", "blue", "square"]
)


def make_reader(tokenizer=TOKENIZER, **options):
    given = {"max_len": 10, "mask_rate": 0.0, "clean": "caption", **options}
    return pipelines.make(pipelines.load("text"), given, tokenizer=tokenizer, what="test")


def words(row, tokenizer=TOKENIZER):
    ids = row["text_masked"][row["text_mask"]]
    return ["MASK" if i == tokenizer.mask_id else tokenizer.token(i) for i in ids[1:-1]]


@pytest.mark.parametrize("text", ["A [MASK] square.", "a <mask>  square", "a [mask]square"])
def test_both_spellings_and_the_cleaning_of_training(text):
    [row] = masks.tokens(text, make_reader())
    assert words(row) == ["a", "MASK", "square"]
    assert row["masked_positions"].tolist() == [2]


def test_a_mask_stands_where_training_would_have_hidden_the_word():
    reader = make_reader()
    whole = reader.text_arrays("a red square", np.random.default_rng(0))
    [row] = masks.tokens("a [MASK] square", reader)
    hidden = np.where(whole["text"] == TOKENIZER.token_id("red"), TOKENIZER.mask_id, whole["text"])
    np.testing.assert_array_equal(row["text_masked"], hidden)
    np.testing.assert_array_equal(row["text_mask"], whole["text_mask"])


def test_bytes_keep_the_space_behind_a_mask():
    letters = tokenizers.load("bytes")
    reader = make_reader(letters, max_len=20, clean="none")
    [row] = masks.tokens("ab<mask> cd", reader)
    whole = reader.text_arrays("ab cd", np.random.default_rng(0))
    unmasked = row["text_masked"][row["text_mask"] & (row["text_masked"] != letters.mask_id)]
    np.testing.assert_array_equal(unmasked, whole["text"][whole["text_mask"]])


def test_every_mask_is_a_row_of_its_own():
    rows = masks.tokens("[MASK] red [MASK]", make_reader())
    assert [int(row["masked_positions"][0]) for row in rows] == [1, 3]
    np.testing.assert_array_equal(rows[0]["text_masked"], rows[1]["text_masked"])


@pytest.mark.parametrize(
    ("text", "reason"),
    [("a red square", "no mask"), (7, "no text"), ("red " * 9 + "[MASK]", "text too long")],
)
def test_what_has_no_mask_to_fill_is_refused(text, reason):
    with pytest.raises(Skip, match=reason):
        masks.tokens(text, make_reader())


def test_the_best_words_are_no_special_tokens():
    shares = np.zeros(TOKENIZER.vocab_size)
    shares[TOKENIZER.pad_id] = 0.5
    shares[TOKENIZER.token_id("red")], shares[TOKENIZER.token_id("blue")] = 0.2, 0.3
    assert masks.best(shares, 2, TOKENIZER) == [("blue", 0.3), ("red", 0.2)]
