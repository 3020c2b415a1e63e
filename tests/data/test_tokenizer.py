"""Tokenizers: specials, word starts, cutting, local files, deterministic training."""

import json

import numpy as np
import pytest

from unified_fm.data import tokenizer

WORDPIECES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "dog",
    "run",
    "##ning",
    "##s",
    ",",
]


@pytest.fixture
def wordpiece(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(WORDPIECES) + "\n")
    return tokenizer.load(tmp_path / "vocab.txt")


def test_wordpiece_frames_the_text_and_marks_where_words_start(wordpiece):
    encoded = wordpiece.encode("The dogs, running", 10)
    assert [wordpiece.token(i) for i in encoded.ids] == [
        *("[CLS]", "the", "dog", "##s", ",", "run", "##ning", "[SEP]", "[PAD]", "[PAD]")
    ]
    assert encoded.word_start.tolist() == [False, True, True, False, True, True] + 4 * [False]
    assert encoded.mask.tolist() == 8 * [True] + 2 * [False]
    assert encoded.length == 8
    assert (wordpiece.pad_id, wordpiece.cls_id, wordpiece.sep_id, wordpiece.mask_id) == (0, 2, 3, 4)
    assert wordpiece.normal_ids.tolist() == [5, 6, 7, 8, 9, 10]
    assert wordpiece.decode(encoded.ids) == "the dogs, running"


def test_a_long_text_is_cut_and_still_ends_in_sep(wordpiece):
    encoded = wordpiece.encode("the dog runs the dog runs", 5)
    assert encoded.ids.tolist() == [2, 5, 6, 7, 3]
    assert encoded.mask.all()


def test_byte_level_bpe_from_vocab_and_merges(tmp_path):
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "Ġ", "Ġa", "ab", "<mask>"]
    (tmp_path / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(pieces)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ a\na b\n")
    bpe = tokenizer.load(tmp_path)
    encoded = bpe.encode("ab a bb", 9)
    assert [bpe.token(i) for i in encoded.ids] == [
        *("<s>", "ab", "Ġa", "Ġ", "b", "b", "</s>", "<pad>", "<pad>")
    ]
    assert encoded.word_start.tolist() == [False, True, True, True] + 5 * [False]
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs merges\.txt"):
        tokenizer.load(tmp_path / "vocab.json")


def test_bytes_need_no_file_and_spell_anything():
    plain = tokenizer.load("bytes")
    assert (plain.vocab_size, plain.cls_id, plain.pad_id, plain.sep_id) == (261, 0, 1, 2)
    encoded = plain.encode("naïve ☃", 20)
    assert plain.decode(encoded.ids) == "naïve ☃"
    assert encoded.ids[encoded.mask].max() < 261


def test_a_text_cannot_smuggle_in_special_tokens(wordpiece):
    for known, text in ((wordpiece, "the [SEP] [MASK] dog"), (tokenizer.load("bytes"), "a </s> b")):
        inside = known.encode(text, 30)
        inside = inside.ids[1 : inside.length - 1]
        assert not set(inside) & {known.cls_id, known.sep_id, known.mask_id, known.pad_id}


def test_training_is_repeatable_and_names_are_one_token():
    texts = ["a small red dog runs home", "the smaller dogs ran home, running"] * 5
    first, again = (tokenizer.train_wordpiece(texts, 80, names=("zebra", "Dog")) for _ in range(2))
    assert [first.token(i) for i in range(first.vocab_size)] == [
        again.token(i) for i in range(again.vocab_size)
    ]
    assert first.vocab_size <= 80
    assert first.encode("Zebra dog", 8).length == 4
    with pytest.raises(ValueError, match="'polar bear' is 2 words"):
        tokenizer.train_wordpiece(texts, 80, names=("polar bear",))
    with pytest.raises(ValueError, match="vocab_size 20 has no room"):
        tokenizer.train_wordpiece(texts, 20)


def test_saved_and_loaded_again(tmp_path, wordpiece):
    path = wordpiece.save(tmp_path / "kept")
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]
    again = tokenizer.load(path.parent)
    text = "the dogs, running"
    assert np.array_equal(again.encode(text, 12).ids, wordpiece.encode(text, 12).ids)


def test_a_cased_vocabulary_keeps_capitals(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDPIECES, "Dog"]))
    cased = tokenizer.load(tmp_path)
    assert cased.encode("Dog dog", 6).ids.tolist() == [2, 11, 6, 3, 0, 0]


def test_refusals_say_what_was_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json, vocab\.txt, vocab\.json"):
        tokenizer.load(tmp_path)
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"lacks \[PAD\]"):
        tokenizer.load(tmp_path / "vocab.txt")
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match="is not a tokenizer"):
        tokenizer.load(tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    "text", ["\0\0a", "\ud800 lone", "שלום עולם", "🦓🦓", "x" * 10_000_000, " " * 10_000_000]
)
def test_fault_24_any_text_is_tokenised(text, wordpiece):
    for known in (wordpiece, tokenizer.load("bytes")):
        encoded = known.encode(text, 30)
        assert encoded.ids.shape == (30,)
        assert encoded.ids[0] == known.cls_id
        assert encoded.ids[encoded.length - 1] == known.sep_id
