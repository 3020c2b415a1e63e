"""Long documents: cut and counted, one row for each part, or packed to full rows."""

import json
import random

import numpy as np
import pytest

from tests.data import vocabularies
from unified_fm.data import documents, tokenizer, tokenizer_training
from unified_fm.data.loader import Loader
from unified_fm.data.pipelines import text
from unified_fm.data.skips import Parts, Skip, Skips
from unified_fm.data.source import open_source

WORDS = ["the", "dogs", "running", "home", "a", "small", "zebra,", "finds", "water.", "naïve"]
LENGTH = 20  # tokens of a row


def write(path, texts):
    path.write_text("".join(json.dumps({"text": each}) + "\n" for each in texts))
    return f"jsonl:{path}"


@pytest.fixture(scope="module")
def texts():
    rng = random.Random(0)
    lengths = [1, 3, 200, 18, 19, 5, 0, 60, 17, 2, 1, 90]
    found = [" ".join(rng.choices(WORDS, k=k)) for k in lengths]
    return [*found, "x" * 300, "中文字" * 40, "two\n\nparts \n", "   "]


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("vocabularies")
    model = vocabularies.write_sentencepiece(folder / "my.model", vocabularies.unigram())
    return {
        "bert": tokenizer_training.train_wordpiece(texts, 200),
        "roberta": tokenizer_training.train_byte_pairs(texts, 300),
        "sentencepiece": tokenizer.load(model),
        "bytes": tokenizer.load("bytes"),
    }


@pytest.mark.parametrize("long", ["chunks", "packed"])
@pytest.mark.parametrize("kind", ["bert", "roberta", "sentencepiece", "bytes"])
def test_every_word_of_every_document_is_in_one_row(tmp_path, texts, vocabulary, kind, long):
    known = vocabulary[kind]
    pipeline = text.Pipeline(tokenizer=known, max_len=LENGTH, long=long)
    rows = pipeline.records_of(open_source(write(tmp_path / "a.jsonl", texts)))
    seen, tokens, lengths, skipped = dict.fromkeys(range(len(texts)), ""), 0, [], 0
    for number in range(len(rows)):
        try:
            example = rows[number]
            arrays = pipeline(example, np.random.default_rng(number))
        except Skip as skip:
            assert skip.reason == "empty text"
            skipped += 1
            continue
        assert "parts" not in arrays, "a row was cut"
        encoded = known.encode_row(example[documents.ROW], LENGTH)
        tokens += int(encoded.inside.sum())
        lengths.append(encoded.length)
        for record, part in zip(example["documents"], example[documents.ROW], strict=True):
            seen[record] += part
    assert skipped == 2  # "" and spaces
    for record, whole in enumerate(texts):
        assert "".join(seen[record].split()) == "".join(whole.split())
    if kind in ("bert", "bytes"):  # the parts have the pieces of the whole; spaces at ends go
        whole = sum(len(found.ends) for found in known.pieces([each.rstrip() for each in texts]))
        assert tokens == whole
    if long == "packed":
        # Full but for a word, or what is left of a document; SentencePiece keeps one for a space.
        assert np.mean(lengths) > 0.75 * LENGTH


def test_rows_spelt_out(tmp_path):
    known = tokenizer.load("bytes")
    source = open_source(write(tmp_path / "a.jsonl", ["ab cde", "f", "ghijklmnop q"]))
    found = {
        long: [
            row[documents.ROW]
            for row in text.Pipeline(tokenizer=known, max_len=8, long=long).records_of(source)
        ]
        for long in documents.KINDS
    }
    # Six bytes a row, of which each document after the first costs one more for its sep.
    assert found["chunks"] == [["ab cde"], ["f"], ["ghijkl"], ["mnop q"]]
    assert found["packed"] == [["ab cde"], ["f"], ["ghijkl"], ["mnop q"]]
    source = open_source(write(tmp_path / "b.jsonl", ["ab", "f", "g hi jk"]))
    packed = text.Pipeline(tokenizer=known, max_len=9, long="packed").records_of(source)
    assert [row[documents.ROW] for row in packed] == [["ab", "f", "g"], [" hi jk"]]
    encoded = known.encode_row(packed[0][documents.ROW], 9)
    assert [known.token(i) for i in encoded.ids] == [
        *("<s>", "a", "b", "</s>", "f", "</s>", "g", "</s>", "<pad>")
    ]
    assert np.flatnonzero(encoded.word_start).tolist() == [1, 4, 6]
    assert np.flatnonzero(encoded.inside).tolist() == [1, 2, 4, 6]
    assert packed.place(0).startswith("of document 0, 1, 2, ") and "line 1" in packed.place(0)
    with pytest.raises(ValueError, match="3 texts need 7"):
        known.encode_row(["a", "b", "c"], 6)


def test_cut_texts_are_counted_in_the_log(tmp_path):
    source = write(tmp_path / "a.jsonl", ["short", "a b c d e f g h i j k l m n o p q r"])
    loader = Loader(
        "text",
        dict(pipeline="text", source=source, batch_size=2, max_len=10),
        seed=0,
        tokenizer=tokenizer.load("bytes"),
    )
    batches = loader.once()
    next(batches)
    assert loader.skips.line() == "2 used, 0 skipped; 1 texts cut at max_len"
    assert "(cut) texts longer than max_len" in loader.skips.table()
    assert loader.skips.end_epoch(0).endswith("2 used, 0 skipped; 1 texts cut at max_len")
    assert not loader.skips.lossy  # nothing is unusable


def test_cut_texts_cost_no_share_of_what_may_be_lost():
    skips = Skips("text", max_skip=0)
    for _ in range(2000):
        skips.use(Parts(cut=1))
    assert skips.line() == "2,000 used, 0 skipped; 2,000 texts cut at max_len"


def test_documents_that_are_lost_with_a_file_are_counted_in_rows(tmp_path):
    source = open_source(write(tmp_path / "a.jsonl", ["a b"] * 400))
    source.lost = 100
    options = dict(tokenizer=tokenizer.load("bytes"), max_len=44, long="packed")
    rows = text.Pipeline(**options).records_of(source)
    assert (len(rows), rows.lost) == (40, 10)


@pytest.mark.parametrize(
    ("given", "second", "cut"),
    [("abc", None, False), ("abcdefghi", None, True), ("abc", "def", True), ("a", "b", False)],
)
def test_cut_is_told_of_texts_and_pairs(given, second, cut):
    assert tokenizer.load("bytes").encode(given, 8, second).cut is cut
    assert tokenizer.load("bytes").encode("x" * 10_000, 8).cut


def test_a_stream_of_rows_counts_rows_and_goes_on_where_it_stopped(tmp_path, texts, vocabulary):
    config = dict(pipeline="text", source=write(tmp_path / "a.jsonl", texts), batch_size=4)
    config |= dict(max_len=LENGTH, long="packed", max_skip=1.0)
    loader = Loader("text", config, seed=1, tokenizer=vocabulary["bert"])
    assert loader.records == len(loader.source) > len(texts)
    batches = loader.batches(0)
    first = [next(batches)["text_masked"] for _ in range(5)]
    again = Loader("text", config, seed=1, tokenizer=vocabulary["bert"]).batches(8)
    for wanted in first[2:]:
        np.testing.assert_array_equal(next(again)["text_masked"], wanted)


def test_a_record_that_cannot_be_read_is_a_row_that_is_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a b"}\nbroken\n{"text": ["c", "d"]}\n')
    source = open_source(f"jsonl:{tmp_path / 'a.jsonl'}")
    for long, wanted in (("chunks", ["a b", Skip, "c", "d"]), ("packed", ["a b", Skip])):
        pipeline = text.Pipeline(tokenizer=tokenizer.load("bytes"), max_len=30, long=long)
        rows, found = pipeline.records_of(source), []
        for number in range(len(rows)):
            try:
                found.append(rows[number][documents.ROW][0])
            except Skip:
                found.append(Skip)
        assert found == wanted


def test_rows_and_pairs_exclude_each_other():
    with pytest.raises(ValueError, match=r"long='packed' makes rows of single texts"):
        text.Pipeline(tokenizer=tokenizer.load("bytes"), long="packed", second="b")
    with pytest.raises(ValueError, match="long"):
        text.Pipeline(tokenizer=tokenizer.load("bytes"), long="cut off")


def test_a_long_document_is_tokenised_in_parts_that_give_the_same_pieces(vocabulary):
    whole = "the dogs running home " * 9000  # several windows
    for known in (vocabulary["bert"], vocabulary["roberta"]):
        (found,) = documents._pieces([documents._Document(0, 0, whole)], known.pieces)
        (once,) = known.pieces([whole])
        np.testing.assert_array_equal(found.ends, once.ends)
        np.testing.assert_array_equal(found.word_start, once.word_start)
