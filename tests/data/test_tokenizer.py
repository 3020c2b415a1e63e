"""Tokenizers: specials, word starts, cutting, local files, deterministic training."""

import copy
import json
import random
import tracemalloc

import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from unified_fm.data import masking, tokenizer, tokenizer_training

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


def test_short_texts_are_encoded_once_and_so_many_are_kept(wordpiece):
    first = wordpiece.encode("the dog", 8)
    assert wordpiece.encode("the dog", 8) is first
    assert wordpiece.encode("the dog", 9).ids.shape == (9,)
    assert wordpiece.encode("the dog", 8, "runs").length == first.length + 3
    long = "the dog runs " * 3
    assert wordpiece.encode(long, 8) is not wordpiece.encode(long, 8)
    for array in (first.ids, first.mask, first.inside, first.word_start, first.segments):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    for number in range(5000):
        wordpiece.encode(str(number), 3)
    again = wordpiece.encode("the dog", 8)
    assert again is not first and (again.ids == first.ids).all()
    assert copy.deepcopy(wordpiece).encode("the dog", 8).ids.tolist() == first.ids.tolist()


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
    first, again = (
        tokenizer_training.train_wordpiece(texts, 80, names=("zebra", "Dog")) for _ in range(2)
    )
    assert [first.token(i) for i in range(first.vocab_size)] == [
        again.token(i) for i in range(again.vocab_size)
    ]
    assert first.vocab_size <= 80
    assert first.encode("Zebra dog", 8).length == 4
    with pytest.raises(ValueError, match="'polar bear' is 2 words"):
        tokenizer_training.train_wordpiece(texts, 80, names=("polar bear",))
    with pytest.raises(ValueError, match="vocab_size 20 has no room"):
        tokenizer_training.train_wordpiece(texts, 20)


def test_saved_and_loaded_again(tmp_path, wordpiece):
    path = wordpiece.save(tmp_path / "kept")
    assert [p.name for p in path.parent.iterdir()] == ["tokenizer.json"]
    again = tokenizer.load(path.parent)
    text = "the dogs, running"
    assert np.array_equal(again.encode(text, 12).ids, wordpiece.encode(text, 12).ids)


@pytest.fixture
def byte_pairs(tmp_path):
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *"thedogruns,", "Ġ", "Ġt", "Ġth", "do", "<mask>"]
    vocabulary = {p: i for i, p in enumerate(dict.fromkeys(pieces))}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nĠ t\nĠt h\nd o\n")
    return tokenizer.load(tmp_path)


def peer(tmp_path, known, max_len):
    """The `tokenizers` package with its own template, cutting and padding."""
    made = tokenizers.Tokenizer.from_file(str(known.save(tmp_path / "peer")))
    ends = [(known.token(i), int(i)) for i in (known.sep_id, known.cls_id)]
    if known.token(known.cls_id) == "[CLS]":
        made.post_processor = processors.BertProcessing(*ends)
    else:
        made.post_processor = processors.RobertaProcessing(
            *ends, trim_offsets=False, add_prefix_space=False
        )
    made.enable_truncation(max_len, strategy="longest_first")
    made.enable_padding(
        length=max_len, pad_id=int(known.pad_id), pad_token=known.token(known.pad_id)
    )
    return made


@pytest.mark.parametrize("kind", ["wordpiece", "byte_pairs"])
def test_pairs_are_those_of_the_tokenizers_package(tmp_path, kind, request):
    known = request.getfixturevalue(kind)
    rng = random.Random(0)
    words = ["the", "dog", "dogs", "running", ",", "cat"]
    cut = 0
    for max_len in (4, 5, 6, 7, 9, 12, 30):
        theirs = peer(tmp_path, known, max_len)
        for _ in range(60):
            pair = [" ".join(rng.choices(words, k=rng.randrange(9))) for _ in range(2)]
            expected = theirs.encode(*pair)
            mine = known.encode(pair[0], max_len, pair[1])
            assert mine.ids.tolist() == expected.ids, pair
            assert mine.mask.tolist() == list(map(bool, expected.attention_mask))
            assert mine.segments.tolist() == expected.type_ids
            special = np.array(expected.special_tokens_mask, bool)
            assert (mine.inside == ~special).all()
            alone = theirs.encode(pair[0])
            assert known.encode(pair[0], max_len).ids.tolist() == alone.ids
            cut += bool(expected.overflowing)
    assert 100 < cut < 400


def test_a_pair_spelt_out(wordpiece):
    encoded = wordpiece.encode("the dogs", 10, "running, dog")
    assert [wordpiece.token(i) for i in encoded.ids] == [
        *("[CLS]", "the", "dog", "##s", "[SEP]", "run", "##ning", ",", "dog", "[SEP]")
    ]
    assert encoded.segments.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert np.flatnonzero(encoded.word_start).tolist() == [1, 2, 5, 7, 8]
    assert wordpiece.encode("the", 5).segments.tolist() == [0] * 5
    with pytest.raises(ValueError, match="max_len is 2; cls and sep of a pair need 3"):
        wordpiece.encode("the", 2, "dog")


@pytest.mark.parametrize("kind", ["wordpiece", "byte_pairs"])
@pytest.mark.parametrize("units", ["words", "spans"])
def test_nothing_but_pieces_is_masked_in_a_pair(kind, units, request):
    known = request.getfixturevalue(kind)
    encoded = known.encode("the dog running", 20, "dogs , the")
    masker = masking.TokenMasker(rate=0.5, max_masked=9, units=units)
    seen = set()
    for seed in range(200):
        out = masker(encoded, known, np.random.default_rng(seed))
        seen.update(out["masked_positions"][out["masked_ids"] != -100].tolist())
    assert seen == set(np.flatnonzero(encoded.inside).tolist())


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
def test_row_24_any_text_is_tokenised(text, wordpiece):
    for known in (wordpiece, tokenizer.load("bytes")):
        encoded = known.encode(text, 30)
        assert encoded.ids.shape == (30,)
        assert encoded.ids[0] == known.cls_id
        assert encoded.ids[encoded.length - 1] == known.sep_id


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            {"the": 10**8},
            r"'the' has the id 100000000 in a vocabulary of 11 entries; ids may go to",
        ),
        ({"the": 13}, "'the' has the id 13 in a vocabulary of 11 entries; ids may go to 12"),
        ({"[MASK]": 2**32 - 1}, r"'\[MASK\]' has the id 4294967295 in a vocabulary of 11"),
    ],
)
def test_D4_a_tokenizer_with_huge_ids_is_refused_before_it_takes_memory(tmp_path, ids, message):
    write_wordpiece(tmp_path, ids)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            tokenizer.load(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_D4_a_few_unused_ids_are_kept(tmp_path):
    write_wordpiece(tmp_path, {",": 12})
    assert tokenizer.load(tmp_path).vocab_size == 13


def test_D4_a_tokenizer_of_wrong_values_is_refused_by_one_error(wordpiece, tmp_path):
    """A value or two of a good file replaced by what does not belong there, 500 times."""
    good = json.loads(wordpiece.save(tmp_path).read_text())
    wrong = [None, True, -1, 10**8, 2**32, 10**30, 1.5, "", "\ud800", [], {}, [[]], [["a", "b"]]]
    path, refused = tmp_path / "tokenizer.json", 0
    for seed in range(500):
        rng = random.Random(seed)
        tree = json.loads(json.dumps(good))
        for _ in range(rng.choice([1, 1, 2])):
            inner, key = rng.choice(list(values(tree)))
            inner[key] = rng.choice(wrong)
        path.write_text(json.dumps(tree))
        tokenizer._load.cache_clear()
        try:
            tokenizer.load(path).encode("The dog [MASK] runs \u2713", 12)
        except ValueError:
            refused += 1
    assert 300 < refused < 500


def write_wordpiece(folder, ids):
    """A tokenizer.json of WORDPIECES, some with other ids."""
    vocabulary = {piece: i for i, piece in enumerate(WORDPIECES)} | ids
    model = {"type": "WordPiece", "vocab": vocabulary, "unk_token": "[UNK]"}
    model |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model}))


def values(tree):
    """(container, key) of every value in a tree of JSON."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, dict | list):
            yield from values(value)
