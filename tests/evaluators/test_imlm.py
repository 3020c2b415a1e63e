import pytest

from tests.evaluators import worlds
from unified_fm.data import tokenizer as tokenizers
from unified_fm.data import tokenizer_training
from unified_fm.evaluators import imlm


@pytest.fixture(scope="module")
def tokenizer():
    return worlds.make_tokenizer()


def ids(tokenizer, text):
    encoded = tokenizer.encode(text, 40)
    return encoded.ids[encoded.mask]


def test_whole_words_are_found_and_parts_of_words_are_not():
    pieces = tokenizer_training.train_wordpiece(["cat catalogue owl a"] * 3, 90, ["cat", "owl"])
    find = imlm._Pieces(pieces).find
    assert find(ids(pieces, "a cat and a owl"), "cat") == (2, 3)
    assert find(ids(pieces, "cat"), "cat") == (1, 2)
    assert find(ids(pieces, "a catcat"), "cat") is None
    assert find(ids(pieces, "a kite"), "cat") is None


def test_words_of_several_tokens_are_found_in_bytes_too():
    pieces = tokenizers.load("bytes")
    find = imlm._Pieces(pieces).find
    assert find(ids(pieces, "a cat"), "cat") == (3, 6)  # <s> a space c a t </s>
    assert find(ids(pieces, "a cats"), "cat") is None
    assert find(ids(pieces, "a bobcat"), "cat") is None


def test_a_perfect_net_reads_the_word_off_the_image(tokenizer):
    evaluator = worlds.evaluator(imlm, "eight", tokenizer, shown=1)
    apply = worlds.Apply(worlds.Oracle(tokenizer))
    (metric,) = evaluator.run(apply, {})
    assert metric.value == 1.0
    assert metric.chance == 1 / 8  # eight colours, each once
    assert apply.compiled == 1
    (example,) = evaluator.examples
    assert (example.caption, example.word) == ("a ____ square", "red")
    assert example.guesses[0][0] == "red" and example.guesses[0][1] > 0.9


def test_a_blind_net_reaches_what_its_constant_answer_reaches(tokenizer):
    evaluator = worlds.evaluator(imlm, "duplicates", tokenizer)
    (metric,) = evaluator.run(worlds.Apply(worlds.Oracle(tokenizer, confused=True)), {})
    assert metric.value == metric.chance == 0.25
    assert "of 4 words" in metric.chance_is


def test_given_words_replace_the_objects_of_the_records(tokenizer):
    evaluator = worlds.evaluator(imlm, "eight", tokenizer, words=("square",))
    (metric,) = evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {})
    assert (metric.value, metric.chance) == (0.0, 1.0)  # the oracle only knows colours


def test_captions_without_a_word_to_mask_are_refused(tokenizer):
    evaluator = worlds.evaluator(imlm, "eight", tokenizer, words=("zebra",))
    with pytest.raises(ValueError, match="words"):
        list(evaluator.run(worlds.Apply(worlds.Oracle(tokenizer)), {}))
