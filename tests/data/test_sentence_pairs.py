"""BERT's next-sentence pairs: what follows, or a piece of another document, half each."""

import json

import numpy as np
import pytest

from unified_fm.data import documents, identity, tokenizer, tokenizer_training
from unified_fm.data.loader import Loader
from unified_fm.data.pipelines import sentence_pairs
from unified_fm.data.source import open_source

NUMBERS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
# A document speaks of itself alone, so that a piece tells where it is from.
TEXTS = [" ".join(f"{name} {'and ' * (k % 4)}{name}." for k in range(40)) for name in NUMBERS]


@pytest.fixture(scope="module")
def known():
    return tokenizer_training.train_wordpiece(TEXTS, 120)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return f"jsonl:{path}"


def names(known, ids):
    return set(known.decode(ids).replace(".", " ").split()) - {"and"}


def test_pairs_follow_or_are_of_another_document_half_each(known, source):
    pipeline = sentence_pairs.Pipeline(tokenizer=known, max_len=32, max_masked=6)
    rows = pipeline.records_of(open_source(source))
    labels, lengths = [], []
    for number in range(len(rows)):
        for seed in range(8):
            arrays = pipeline(rows[number], np.random.default_rng([seed, number]))
            assert arrays.keys() == pipeline.spec().keys()
            first = arrays["text"][(arrays["segments"] == 0) & arrays["text_mask"]]
            second = arrays["text"][arrays["segments"] == 1]
            assert len(second) > 1 and second[-1] == first[-1] == known.sep_id
            same = len(names(known, first) | names(known, second)) == 1
            assert same == (arrays["next_sentence"] == sentence_pairs.FOLLOWS)
            if same:  # cut between two sentences
                assert known.decode(first).endswith(".")
            hidden = arrays["masked_positions"][arrays["masked_ids"] >= 0]
            assert not np.isin(arrays["text"][hidden], [known.sep_id, known.cls_id]).any()
            labels.append(int(arrays["next_sentence"]))
            lengths.append(int(arrays["text_mask"].sum()))
    assert len(labels) > 400 and abs(np.mean(labels) - 0.5) < 0.08
    assert min(lengths) < 20 and np.mean(lengths) > 24


def test_a_pair_that_follows_is_the_text_as_it_stands(known, source):
    pipeline = sentence_pairs.Pipeline(tokenizer=known, max_len=32, random_next=0, short=0)
    rows = pipeline.records_of(open_source(source))
    for number in (0, 5, 17):
        arrays = pipeline(rows[number], np.random.default_rng(number))
        (row,) = rows[number][documents.ROW]
        assert known.decode(arrays["text"]) == known.decode(known.encode(row, 32).ids)
        assert arrays["next_sentence"] == 0


def test_one_sentence_is_cut_between_words_and_one_word_gets_another_document(known, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"text": "zero one two"}) + "\n" + json.dumps({"text": "nine"}))
    pipeline = sentence_pairs.Pipeline(tokenizer=known, max_len=32, random_next=0)
    rows = pipeline.records_of(open_source(f"jsonl:{path}"))
    several, alone = (pipeline(rows[k], np.random.default_rng(0)) for k in (0, 1))
    assert known.decode(several["text"]) == "zero one two" and several["next_sentence"] == 0
    assert known.decode(alone["text"]).startswith("nine ") and alone["next_sentence"] == 1


def test_batches_are_the_same_again_and_the_data_have_one_hash(known, source):
    config = dict(pipeline="sentence_pairs", source=source, batch_size=8, max_len=32)
    one, two = (Loader("text", config, seed=3, tokenizer=known) for _ in range(2))
    batches, again = one.batches(0), two.batches(8)
    next(batches)
    for _ in range(3):
        left, right = next(batches), next(again)
        for name, array in left.items():
            np.testing.assert_array_equal(array, right[name])
    assert {name: (s.shape, s.dtype) for name, s in one.spec().items()} == {
        name: (a.shape, a.dtype) for name, a in left.items()
    }
    assert identity.of_source(one.source) == identity.of_source(two.source)
    assert "document" in one.source.place(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(long="packed"), "sentence pairs are made of"),
        (dict(max_len=5), "two texts need 6"),
        (dict(random_next=1.5), "random_next is 1.5; it is a share"),
    ],
)
def test_wrong_options_are_refused(known, options, message):
    with pytest.raises(ValueError, match=message):
        sentence_pairs.Pipeline(tokenizer=known, **options)


def test_one_row_makes_no_pairs(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "alone"}))
    pipeline = sentence_pairs.Pipeline(tokenizer=tokenizer.load("bytes"))
    with pytest.raises(ValueError, match="has 1 rows of text; pairs of different ones need 2"):
        pipeline.records_of(open_source(f"jsonl:{tmp_path / 'a.jsonl'}"))
